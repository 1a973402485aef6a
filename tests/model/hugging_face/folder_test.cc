// Checkpoint folders on disk: which files count, what is refused, and that quantised tensors read as their blocks.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant_format.h"
#include "model/hugging_face/hf_folder.h"
#include "model/hugging_face/open_model.h"
#include "tests/support/checkpoint.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

namespace fs = std::filesystem;
using dunlin::testing::Checkpoint;
using dunlin::testing::SafeTensorsBuilder;
using dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

class FolderTest : public ::testing::Test {
 protected:
  FolderTest() : folder_(fs::path(::testing::TempDir()) / ("checkpoint." + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~FolderTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  void Write(const Checkpoint& c) {
    Write("config.json", c.config.dump());
    Write("model.safetensors", c.weights.Build());
  }
  absl::StatusOr<std::unique_ptr<ModelFile>> Open() { return OpenModel(folder_.string()); }

  const fs::path folder_;
};

TEST_F(FolderTest, AFolderIsOpenedWithOrWithoutASlash) {
  Checkpoint c;
  Write(c);
  ASSERT_OK_AND_ASSIGN(const auto file, OpenModel(folder_.string() + "//"));
  EXPECT_EQ(file->path(), folder_.string());
  EXPECT_EQ(file->file_bytes(), c.weights.Build().size());
  EXPECT_EQ(*file->gguf().GetString("general.name"), folder_.filename().string());
  const GgufTensor* t = file->gguf().FindTensor("blk.0.attn_q.weight");
  ASSERT_NE(t, nullptr);
  std::vector<uint8_t> scratch;
  EXPECT_EQ(file->Read(*t, &scratch).data(), t->data.data());
  EXPECT_EQ(file->Stored(*t).size(), t->num_bytes());
  const std::string before(t->data.begin(), t->data.end());
  file->DropPages(*t);
  EXPECT_EQ(std::string(t->data.begin(), t->data.end()), before);
}

TEST_F(FolderTest, AQuantisedTensorReadsAsBlocks) {
  Checkpoint c;
  c.Quantize(3, 32, 3);
  Write(c);
  ASSERT_OK_AND_ASSIGN(const auto file, Open());
  const GgufTensor* t = file->gguf().FindTensor("blk.0.ffn_down.weight");
  ASSERT_NE(t, nullptr);
  EXPECT_TRUE(t->data.empty());
  std::vector<uint8_t> scratch;
  const std::vector<uint8_t> blocks = [&] {
    const std::span<const uint8_t> read = file->Read(*t, &scratch);
    return std::vector<uint8_t>(read.begin(), read.end());
  }();
  EXPECT_EQ(blocks.size(), t->num_bytes());
  EXPECT_EQ(file->Stored(*t).size(), size_t{Checkpoint::kHidden} * Checkpoint::kFfn * 3 / 8);
  file->DropPages(*t);
  const std::span<const uint8_t> again = file->Read(*t, &scratch);
  EXPECT_TRUE(std::equal(blocks.begin(), blocks.end(), again.begin(), again.end()));
}

TEST_F(FolderTest, ShardsAreThoseOfTheIndex) {
  Checkpoint c;
  SafeTensorsBuilder norm;
  norm.Tensor("model.norm.weight", "BF16", {Checkpoint::kHidden}, std::string(2 * Checkpoint::kHidden, '\x3C'));
  c.weights.Remove("model.norm.weight");
  Write("config.json", c.config.dump());
  Write("a.safetensors", c.weights.Build());
  Write("b.safetensors", norm.Build());
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.safetensors, b.safetensors")));
  const auto index = [&](const std::string& second) {
    Write("model.safetensors.index.json",
          R"({"weight_map":{"model.embed_tokens.weight":"a.safetensors","model.norm.weight":")" + second + R"("}})");
  };
  index("b.safetensors");
  ASSERT_OK_AND_ASSIGN(const auto file, Open());
  EXPECT_NE(file->gguf().FindTensor("output_norm.weight"), nullptr);
  EXPECT_EQ(file->file_bytes(), c.weights.Build().size() + norm.Build().size());
  for (const char* outside : {"../b.safetensors", "/etc/b.safetensors", "b.bin", ""}) {
    index(outside);
    EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model.norm.weight"))) << outside;
  }
  index("c.safetensors");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("c.safetensors")));
  Write("model.safetensors.index.json", R"({"weight_map":[]})");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight_map")));
}

TEST_F(FolderTest, WhatIsMissingOrBrokenIsNamed) {
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no config.json")));
  Write("config.json", "{}");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no *.safetensors file")));
  Write("model.safetensors", "short");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model.safetensors: ")));
  Write("model.safetensors", Checkpoint().weights.Build());
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("model_type")));
}

TEST(ModelName, IsTheLastPartOfThePath) {
  EXPECT_EQ(ModelName("/a/SmolLM2.Q4_1.gguf"), "SmolLM2.Q4_1");
  EXPECT_EQ(ModelName("SmolLM2-1.7B-GPTQ/"), "SmolLM2-1.7B-GPTQ");
  EXPECT_EQ(ModelName("/models/Qwen2.5-0.5B"), "Qwen2.5-0.5B");
  EXPECT_EQ(ModelName("model"), "model");
  EXPECT_EQ(ModelName(".gguf"), ".gguf");
  EXPECT_EQ(ModelName(""), "");
}

}  // namespace
}  // namespace dunlin::model
