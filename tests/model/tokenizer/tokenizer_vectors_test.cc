// The tokenizers against what the published ones give: token ids of whole vocabularies, and pre-tokenizer splits.
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin::model {
namespace {

using dunlin::testing::DefaultModelPath;
using dunlin::testing::GoldenPath;
using dunlin::testing::ReadFile;
using dunlin::testing::SharedDataPath;

using Ids = std::vector<TokenId>;

struct Vector {
  std::string text;
  Ids ids;
};

// The pairs of NAME.gguf.inp and NAME.gguf.out; empty when a file is absent.
std::vector<Vector> ReadVectors(const std::string& name) {
  const std::string inputs = SharedDataPath(absl::StrCat("tokenizer/", name, ".gguf.inp"));
  const std::string outputs = SharedDataPath(absl::StrCat("tokenizer/", name, ".gguf.out"));
  if (inputs.empty() || outputs.empty()) return {};
  const std::string input_bytes = ReadFile(inputs);
  const std::string output_bytes = ReadFile(outputs);
  const std::vector<std::string> texts = absl::StrSplit(input_bytes, "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines = absl::StrSplit(output_bytes, '\n');
  std::vector<Vector> vectors;
  for (size_t i = 0; i < texts.size() && i < lines.size(); ++i) {
    Vector vector = {texts[i], {}};
    for (const absl::string_view number : absl::StrSplit(lines[i], ' ', absl::SkipEmpty())) {
      TokenId id = -1;
      EXPECT_TRUE(absl::SimpleAtoi(number, &id)) << number;
      vector.ids.push_back(id);
    }
    vectors.push_back(std::move(vector));
  }
  return vectors;
}

std::unique_ptr<const Tokenizer> OpenTokenizer(const std::string& path) {
  const auto file = GgufFile::Open(path);
  EXPECT_OK(file);
  if (!file.ok()) return nullptr;
  auto tokenizer = Tokenizer::Create((*file)->gguf());
  EXPECT_OK(tokenizer);
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::string Decode(const Tokenizer& tokenizer, const Ids& ids) {
  std::string bytes;
  for (const TokenId id : ids) absl::StrAppend(&bytes, tokenizer.TokenBytes(id, /*special_text=*/true));
  if (tokenizer.strips_leading_space() && !bytes.empty() && bytes[0] == ' ') bytes.erase(0, 1);
  return bytes;
}

void ExpectVectors(const std::string& name, const std::string& vocabulary_path) {
  const std::vector<Vector> vectors = ReadVectors(name);
  if (vectors.empty()) GTEST_SKIP() << "tokenizer/" << name << ".gguf.inp or .out is absent";
  if (vocabulary_path.empty()) GTEST_SKIP() << "the vocabulary for " << name << " is absent";
  const auto tokenizer = OpenTokenizer(vocabulary_path);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(vectors.size(), 47u);
  for (const Vector& vector : vectors) {
    ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer->Encode(vector.text, {.add_special = false, .parse_special = true}));
    EXPECT_EQ(ids, vector.ids) << '"' << vector.text << '"';
    EXPECT_EQ(Decode(*tokenizer, ids), vector.text);
  }
}

TEST(TokenizerVectorsTest, Gpt2GivesThePublishedIds) { ExpectVectors("gpt-2", SharedDataPath("tokenizer/gpt-2.gguf")); }

TEST(TokenizerVectorsTest, LlamaSpmGivesThePublishedIds) {
  ExpectVectors("llama-spm", SharedDataPath("tokenizer/llama-spm.gguf"));
}

TEST(TokenizerVectorsTest, SmolLmGivesThePublishedIdsWithTheDefaultModel) {
  ExpectVectors("smollm", DefaultModelPath());
}

TEST(TokenizerVectorsTest, LlamaSpmPutsBosFirstWhenAskedForSpecialTokens) {
  const std::string path = SharedDataPath("tokenizer/llama-spm.gguf");
  if (path.empty()) GTEST_SKIP() << "tokenizer/llama-spm.gguf is absent";
  const auto tokenizer = OpenTokenizer(path);
  ASSERT_NE(tokenizer, nullptr);
  ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer->Encode("Hello", {.add_special = true, .parse_special = true}));
  EXPECT_EQ(ids, (Ids{1, 15043}));
  EXPECT_EQ(tokenizer->end_of_generation(), (Ids{2}));
}

TEST(TokenizerVectorsTest, LlamaSpmTextOfAControlTokenNeverBecomesItUnlessParsed) {
  const std::string path = SharedDataPath("tokenizer/llama-spm.gguf");
  if (path.empty()) GTEST_SKIP() << "tokenizer/llama-spm.gguf is absent";
  const auto tokenizer = OpenTokenizer(path);
  ASSERT_NE(tokenizer, nullptr);
  for (const std::string text : {"<s>", "a</s>", "<unk>", "</s> <s>"}) {
    ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer->Encode(text, {.add_special = false, .parse_special = false}));
    for (const TokenId id : ids) EXPECT_FALSE(tokenizer->IsControl(id)) << text;
    EXPECT_EQ(Decode(*tokenizer, ids), text);
  }
}

nlohmann::json ReadJson(const std::string& path) { return nlohmann::json::parse(ReadFile(path)); }

TEST(TokenizerVectorsTest, AllDefaultModelCasesAreExactWithAndWithoutSpecialParsing) {
  if (DefaultModelPath().empty()) GTEST_SKIP() << "the default model is absent";
  const auto tokenizer = OpenTokenizer(DefaultModelPath());
  ASSERT_NE(tokenizer, nullptr);
  const nlohmann::json golden = ReadJson(GoldenPath("tokenizer/smollm2-instruct-cases.json"));
  ASSERT_EQ(golden["cases"].size(), 150u);
  for (const auto& c : golden["cases"]) {
    const auto text = c["text"].get<std::string>();
    ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer->Encode(text, {.add_special = false, .parse_special = true}));
    EXPECT_EQ(ids, c["ids"].get<Ids>()) << text;
    ASSERT_OK_AND_ASSIGN(const Ids plain, tokenizer->Encode(text, {.add_special = false, .parse_special = false}));
    EXPECT_EQ(plain, c["ids_no_special"].get<Ids>()) << text;
    if (c.value("lossy", false)) continue;
    EXPECT_EQ(Decode(*tokenizer, ids), text);
    EXPECT_EQ(Decode(*tokenizer, plain), text);
  }
}

TEST(TokenizerVectorsTest, DefaultModelEndsAtImEndAndEndOfText) {
  if (DefaultModelPath().empty()) GTEST_SKIP() << "the default model is absent";
  const auto tokenizer = OpenTokenizer(DefaultModelPath());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->end_of_generation(), (Ids{0, 2}));
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->model(), "gpt2");
  EXPECT_EQ(tokenizer->pre_tokenizer(), "smollm");
}

std::unique_ptr<const PreTokenizer> MakePreTokenizer(const std::string& name) {
  const PreTokenizerFamily* family = FindPreTokenizerFamily(name);
  EXPECT_NE(family, nullptr) << name;
  if (family == nullptr) return nullptr;
  auto made = PreTokenizer::Create(family->expressions);
  EXPECT_OK(made);
  return made.ok() ? *std::move(made) : nullptr;
}

TEST(TokenizerVectorsTest, EveryPreTokenizerSplitsAsThePublishedOne) {
  const nlohmann::json golden =
      ReadJson(absl::StrCat(DUNLIN_SOURCE_DIR, "/tests/model/tokenizer/pre_tokenizer_splits.json"));
  std::vector<std::string> texts;
  const nlohmann::json cases = ReadJson(GoldenPath("tokenizer/smollm2-instruct-cases.json"));
  for (const auto& c : cases["cases"]) texts.push_back(c["text"].get<std::string>());
  for (const auto& text : golden["extra_texts"]) texts.push_back(text.get<std::string>());
  ASSERT_EQ(golden["splits"].size(), 4u);
  for (const auto& [name, splits] : golden["splits"].items()) {
    const auto pre_tokenizer = MakePreTokenizer(name);
    ASSERT_NE(pre_tokenizer, nullptr);
    ASSERT_EQ(splits.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      if (splits[i].is_null()) continue;
      std::vector<absl::string_view> pieces;
      ASSERT_OK(pre_tokenizer->Split(texts[i], &pieces));
      std::vector<size_t> lengths;
      for (const absl::string_view piece : pieces) lengths.push_back(piece.size());
      EXPECT_EQ(lengths, splits[i].get<std::vector<size_t>>()) << name << " text " << i << ": " << texts[i];
    }
  }
}

// Without its vocabulary, a file of ids still says this much: there must be one id list per piece, the same wherever
// the piece occurs, whose concatenation is the line. Returns how many pieces' lists are determined; -1 on a
// contradiction.
int NumConsistentPieces(const PreTokenizer& pre_tokenizer, const std::vector<Vector>& vectors) {
  std::map<std::string, Ids> known;
  for (bool learned = true; learned;) {
    learned = false;
    for (const Vector& vector : vectors) {
      std::vector<absl::string_view> pieces;
      EXPECT_OK(pre_tokenizer.Split(vector.text, &pieces));
      size_t first = 0, last = pieces.size();  // the pieces and ids not yet explained
      size_t begin = 0, end = vector.ids.size();
      for (; first < last; ++first) {
        const auto it = known.find(std::string(pieces[first]));
        if (it == known.end()) break;
        if (it->second.size() > end - begin) return -1;
        if (!std::equal(it->second.begin(), it->second.end(), vector.ids.begin() + static_cast<ptrdiff_t>(begin)))
          return -1;
        begin += it->second.size();
      }
      for (; first < last; --last) {
        const auto it = known.find(std::string(pieces[last - 1]));
        if (it == known.end()) break;
        if (it->second.size() > end - begin) return -1;
        end -= it->second.size();
        if (!std::equal(it->second.begin(), it->second.end(), vector.ids.begin() + static_cast<ptrdiff_t>(end)))
          return -1;
      }
      if (end - begin < last - first || (first == last && begin != end)) return -1;
      if (last - first == 1) {
        known[std::string(pieces[first])] =
            Ids(vector.ids.begin() + static_cast<ptrdiff_t>(begin), vector.ids.begin() + static_cast<ptrdiff_t>(end));
        learned = true;
      }
    }
  }
  return static_cast<int>(known.size());
}

// A coarser split than the right one cannot contradict, so of the wrong ones only the finer are named.
TEST(TokenizerVectorsTest, LlamaBpeAndQwen2IdsFitTheirOwnSplit) {
  struct Expectation {
    std::string name;
    std::vector<std::string> contradicting;
  };
  for (const Expectation& e : {Expectation{"llama-bpe", {"smollm", "qwen2"}}, Expectation{"qwen2", {}}}) {
    const std::vector<Vector> vectors = ReadVectors(e.name);
    if (vectors.empty()) GTEST_SKIP() << "tokenizer/" << e.name << ".gguf.inp or .out is absent";
    EXPECT_EQ(vectors.size(), 47u);
    EXPECT_GE(NumConsistentPieces(*MakePreTokenizer(e.name), vectors), 20) << e.name;
    for (const std::string& other : e.contradicting) {
      EXPECT_EQ(NumConsistentPieces(*MakePreTokenizer(other), vectors), -1) << e.name << " with " << other;
    }
  }
}

}  // namespace
}  // namespace dunlin::model
