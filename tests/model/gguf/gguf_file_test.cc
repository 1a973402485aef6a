// Mapping files, and the default model as published.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/architectures.h"
#include "model/gguf/gguf_file.h"
#include "model/model_config.h"
#include "nlohmann/json.hpp"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin::model {
namespace {

using dunlin::testing::BuildTinyLlama;
using dunlin::testing::DefaultModelPath;
using dunlin::testing::GoldenPath;
using dunlin::testing::ReadFile;
using dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A directory of its own that goes with the test.
class GgufFileTest : public ::testing::Test {
 protected:
  GgufFileTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "gguf_file_test.XXXXXX").string();
    dir_ = mkdtemp(pattern.data());
  }
  ~GgufFileTest() override { std::filesystem::remove_all(dir_); }
  std::string Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
    return (dir_ / name).string();
  }
  std::filesystem::path dir_;
};

TEST_F(GgufFileTest, OpensMapsAndKeepsItsViewsAfterPagesAreDropped) {
  const std::string bytes = BuildTinyLlama({});
  const std::string path = Write("tiny.gguf", bytes);
  ASSERT_OK_AND_ASSIGN(const auto file, GgufFile::Open(path));
  EXPECT_EQ(file->path(), path);
  EXPECT_EQ(file->file_bytes(), bytes.size());
  const GgufTensor* t = file->gguf().FindTensor("token_embd.weight");
  ASSERT_NE(t, nullptr);
  const std::string before(t->data.begin(), t->data.end());
  std::vector<uint8_t> scratch;
  EXPECT_EQ(file->Read(*t, &scratch).data(), t->data.data());
  file->DropPages(*t);
  EXPECT_EQ(std::string(t->data.begin(), t->data.end()), before);
  EXPECT_NE(bytes.find(before), std::string::npos);
  EXPECT_EQ(*file->gguf().GetString("general.architecture"), "llama");
}

TEST_F(GgufFileTest, RefusesPathsByTheirReason) {
  const std::string missing = (dir_ / "missing.gguf").string();
  EXPECT_THAT(GgufFile::Open(missing), StatusIs(absl::StatusCode::kNotFound, HasSubstr(missing)));
  EXPECT_THAT(GgufFile::Open(dir_.string()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
  EXPECT_THAT(GgufFile::Open(Write("empty", "")), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  const std::string text = Write("text", "hello, this is no model");
  EXPECT_THAT(GgufFile::Open(text),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(text), HasSubstr("not a GGUF file"))));
}

TEST_F(GgufFileTest, SaysWhenReadingIsNotPermitted) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const std::string path = Write("secret", "GGUF");
  std::filesystem::permissions(path, std::filesystem::perms::none);
  EXPECT_THAT(GgufFile::Open(path), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(path)));
}

// Checks one key of the file against its published description in models.json.
void ExpectMatches(const Gguf& gguf, const std::string& key, const nlohmann::json& want) {
  SCOPED_TRACE(key);
  const GgufValue* value = gguf.Find(key);
  ASSERT_NE(value, nullptr);
  if (want.is_string()) {
    EXPECT_EQ(*gguf.GetString(key), want.get<std::string>());
  } else if (want.is_boolean()) {
    EXPECT_EQ(*gguf.GetBool(key), want.get<bool>());
  } else if (want.is_number_integer()) {
    EXPECT_EQ(*gguf.GetInt(key, 0, 1 << 30), want.get<int64_t>());
  } else if (want.is_number_float()) {
    EXPECT_EQ(*gguf.GetFloat(key), want.get<double>());
  } else if (want.contains("bytes")) {
    EXPECT_EQ(gguf.GetString(key)->size(), want["bytes"].get<size_t>());
  } else {
    EXPECT_EQ(value->array_size(), want["array_length"].get<size_t>());
    if (want["element_type"] != "STRING") {
      EXPECT_EQ(std::vector<int64_t>(value->integers.begin(), value->integers.begin() + 3),
                want["first"].get<std::vector<int64_t>>());
      return;
    }
    for (size_t i = 0; i < want["first"].size(); ++i) EXPECT_EQ(value->strings[i], want["first"][i].get<std::string>());
  }
}

TEST(DefaultModel, HoldsWhatIsPublishedAboutIt) {
  const std::string path = DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model file is absent";
  const auto want = nlohmann::json::parse(ReadFile(GoldenPath("models.json")))["models"][0]["gguf"];
  ASSERT_OK_AND_ASSIGN(const auto file, GgufFile::Open(path));
  const Gguf& gguf = file->gguf();
  EXPECT_EQ(file->file_bytes(), want["bytes"].get<size_t>());
  EXPECT_EQ(gguf.version(), want["gguf_version"].get<int>());
  EXPECT_EQ(gguf.alignment(), want["data_alignment"].get<size_t>());
  EXPECT_EQ(gguf.tensors().size(), 272u);
  EXPECT_EQ(gguf.keys().size(), want["metadata"].size());
  for (const auto& [key, value] : want["metadata"].items()) ExpectMatches(gguf, key, value);
  std::map<std::string, std::pair<size_t, size_t>> totals;
  for (const GgufTensor& t : gguf.tensors()) {
    auto& [tensors, bytes] = totals[kernels::GetDTypeInfo(t.type).name];
    ++tensors;
    bytes += t.data.size();
  }
  EXPECT_EQ(totals.size(), want["tensor_types"].size());
  for (const auto& [type, total] : want["tensor_types"].items()) {
    EXPECT_EQ(totals[type].first, total["tensors"].get<size_t>()) << type;
    EXPECT_EQ(totals[type].second, total["bytes"].get<size_t>()) << type;
  }
}

TEST(DefaultModel, HasTheConfigurationOfSmolLm2) {
  const std::string path = DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model file is absent";
  ASSERT_OK_AND_ASSIGN(const auto file, GgufFile::Open(path));
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, ParseModelConfig(file->gguf()));
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(c.quantization, "Q4_1");
  EXPECT_EQ(c.num_layers, 30);
  EXPECT_EQ(c.hidden_size, 576);
  EXPECT_EQ(c.ffn_size, 1536);
  EXPECT_EQ(c.num_q_heads, 9);
  EXPECT_EQ(c.num_kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.vocab_size, 49152);
  EXPECT_EQ(c.context_tokens, 8192);
  EXPECT_EQ(c.rms_eps, 1e-5f);
  EXPECT_EQ(c.rope_pairing, RopePairing::kAdjacent);
  EXPECT_EQ(c.rope_inv_freq.size(), 32u);
  EXPECT_DOUBLE_EQ(c.rope_inv_freq[0], 1.0);
  EXPECT_DOUBLE_EQ(c.rope_inv_freq[31], 1.4330125702369627e-05);  // 100000^(-62/64)
  EXPECT_EQ(c.attn_scale, 0.125f);
  EXPECT_TRUE(c.tied_output);
  ASSERT_OK_AND_ASSIGN(const ModelTensors m, FindModelTensors(file->gguf(), c));
  EXPECT_EQ(m.output, nullptr);
  EXPECT_EQ(m.token_embd->type, kernels::DType::kQ8_0);
  ASSERT_OK_AND_ASSIGN(const LayerTensors l, FindLayerTensors(file->gguf(), c, 29));
  EXPECT_EQ(l.down->cols(), 1536);
  EXPECT_EQ(l.q_bias, nullptr);
}

}  // namespace
}  // namespace dunlin::model
