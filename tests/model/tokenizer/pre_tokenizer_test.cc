#include "model/tokenizer/pre_tokenizer.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Split(absl::string_view family, absl::string_view text) {
  const auto made = PreTokenizer::Create(FindPreTokenizerFamily(family)->expressions);
  EXPECT_OK(made);
  std::vector<absl::string_view> pieces;
  EXPECT_OK((*made)->Split(text, &pieces));
  return std::vector<std::string>(pieces.begin(), pieces.end());
}

TEST(PreTokenizerTest, DigitsGroupAsEachFamilySays) {
  EXPECT_THAT(Split("gpt-2", "a 12345"), ElementsAre("a", " 12345"));
  EXPECT_THAT(Split("smollm", "a 12345"), ElementsAre("a", " ", "1", "2", "3", "4", "5"));
  EXPECT_THAT(Split("llama-bpe", "a 12345"), ElementsAre("a", " ", "123", "45"));
  EXPECT_THAT(Split("qwen2", "a 12345"), ElementsAre("a", " ", "1", "2", "3", "4", "5"));
}

TEST(PreTokenizerTest, ContractionsSplitOffAndOnlySomeFamiliesTakeUpperCase) {
  EXPECT_THAT(Split("gpt-2", "I'll DON'T"), ElementsAre("I", "'ll", " DON", "'", "T"));
  EXPECT_THAT(Split("llama3", "I'll DON'T"), ElementsAre("I", "'ll", " DON", "'T"));
  EXPECT_THAT(Split("llama-v3", "x'RE"), ElementsAre("x", "'RE"));
}

TEST(PreTokenizerTest, TheLastSpaceOfARunGoesWithTheWord) {
  EXPECT_THAT(Split("gpt-2", "a   b  "), ElementsAre("a", "  ", " b", "  "));
  EXPECT_THAT(Split("qwen2", "a \n\n  b"), ElementsAre("a", " \n\n", " ", " b"));
  EXPECT_THAT(Split("llama-bpe", "x;\n\ny(z"), ElementsAre("x", ";\n\n", "y", "(z"));
}

TEST(PreTokenizerTest, TheMongolianVowelSeparatorIsNoSpace) {
  EXPECT_THAT(Split("gpt-2", "a\xE1\xA0\x8E b"), ElementsAre("a", "\xE1\xA0\x8E", " b"));
}

TEST(PreTokenizerTest, PiecesCoverTheTextAlsoWhereNothingMatches) {
  const auto made = PreTokenizer::Create({"b+", "[xy]"});
  ASSERT_OK(made);
  std::vector<absl::string_view> pieces = {"left over"};
  ASSERT_OK((*made)->Split("aabbcxdy", &pieces));
  EXPECT_THAT(pieces, ElementsAre("aa", "bb", "c", "x", "d", "y"));
  ASSERT_OK((*made)->Split("", &pieces));
  EXPECT_THAT(pieces, ElementsAre());
}

TEST(PreTokenizerTest, ABacktrackingExplosionEndsAtTheMatchLimit) {
  const auto made = PreTokenizer::Create({"(?:a|aa)+b"}, /*match_limit=*/10000);
  ASSERT_OK(made);
  std::vector<absl::string_view> pieces;
  EXPECT_THAT((*made)->Split(std::string(60, 'a') + "cb", &pieces),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("match limit 10000")));
}

TEST(PreTokenizerTest, AnExpressionThatDoesNotCompileIsRefused) {
  EXPECT_THAT(PreTokenizer::Create({"(a"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at offset 2 of (a")));
}

TEST(PreTokenizerTest, LongRunsStayFarBelowTheMatchLimitInEveryFamily) {
  for (const char* family : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    for (const char* unit : {"a", " ", "\n", "1", "!", "' ", "\xE4\xBD\xA0", " \n ", "\t"}) {
      std::string text;
      while (text.size() < (size_t{1} << 20)) text += unit;
      size_t bytes = 0;
      for (const std::string& piece : Split(family, text)) bytes += piece.size();
      EXPECT_EQ(bytes, text.size()) << family << " of " << unit;
    }
  }
}

}  // namespace
}  // namespace dunlin::model
