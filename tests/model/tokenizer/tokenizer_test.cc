// Special tokens, segments, byte handling and use from many threads, on two small vocabularies.
#include "model/tokenizer/tokenizer.h"

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/special_tokens.h"
#include "model/tokenizer/vocabulary.h"
#include "model/tokenizer/vocabulary_tokenizer.h"
#include "tests/model/tokenizer/small_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::IdOf;
using dunlin::testing::kBpeEnd;
using dunlin::testing::kBpeEndMore;
using dunlin::testing::kBpeStart;
using dunlin::testing::kBpeTool;
using dunlin::testing::kSpmFirstByte;
using dunlin::testing::kSpmTool;
using dunlin::testing::SmallBpeVocabulary;
using dunlin::testing::SmallSpmVocabulary;
using dunlin::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Ids = std::vector<TokenId>;

std::unique_ptr<const Tokenizer> Make(const Vocabulary& vocabulary) {
  auto made = CreateTokenizer(vocabulary);
  EXPECT_OK(made);
  return *std::move(made);
}

Ids Encode(const Tokenizer& tokenizer, absl::string_view text, bool parse_special = true, bool add_special = false) {
  const auto ids = tokenizer.Encode(text, {.add_special = add_special, .parse_special = parse_special});
  EXPECT_OK(ids);
  return ids.value_or(Ids{});
}

Ids EncodeSegments(const Tokenizer& tokenizer, const std::vector<TextSegment>& segments) {
  const auto ids = tokenizer.EncodeSegments(segments, /*add_special=*/false);
  EXPECT_OK(ids);
  return ids.value_or(Ids{});
}

std::string Bytes(const Tokenizer& tokenizer, const Ids& ids) {
  std::string bytes;
  for (const TokenId id : ids) absl::StrAppend(&bytes, tokenizer.TokenBytes(id, true));
  return bytes;
}

std::string Decode(const Tokenizer& tokenizer, const Ids& ids) {
  StreamDecoder decoder(&tokenizer, /*skip_special=*/true);
  std::string text;
  for (const TokenId id : ids) decoder.Append(id, &text);
  decoder.Finish(&text);
  return text;
}

bool HasControl(const Tokenizer& tokenizer, const Ids& ids) {
  for (const TokenId id : ids) {
    if (tokenizer.IsControl(id)) return true;
  }
  return false;
}

TEST(TokenizerTest, ControlTokensAreParsedOnlyWhenAskedAndTheLongestWins) {
  const auto tokenizer = Make(SmallBpeVocabulary("gpt-2"));
  EXPECT_THAT(Encode(*tokenizer, "<|start|><|im_end|>more<|im_end|>mor"),
              ElementsAre(kBpeStart, kBpeEndMore, kBpeEnd, 'm', 'o', 'r'));
  const Ids plain = Encode(*tokenizer, "<|start|><|im_end|>more", /*parse_special=*/false);
  EXPECT_FALSE(HasControl(*tokenizer, plain));
  EXPECT_EQ(Bytes(*tokenizer, plain), "<|start|><|im_end|>more");
}

TEST(TokenizerTest, UserDefinedTokensAreAlwaysCutOutFirst) {
  const auto bpe = Make(SmallBpeVocabulary("gpt-2"));
  const auto spm = Make(SmallSpmVocabulary());
  for (const bool parse_special : {true, false}) {
    EXPECT_THAT(Encode(*bpe, "x<tool>x", parse_special), ElementsAre('x', kBpeTool, 'x'));
    EXPECT_THAT(Encode(*spm, "<tool>", parse_special), ElementsAre(kSpmTool));
  }
}

TEST(TokenizerTest, AddSpecialPutsBosAndEosWhereTheModelSays) {
  Vocabulary vocabulary = SmallBpeVocabulary("gpt-2");
  EXPECT_THAT(Encode(*Make(vocabulary), "x", true, true), ElementsAre('x'));
  vocabulary.add_bos = true;
  vocabulary.add_eos = true;
  EXPECT_THAT(Encode(*Make(vocabulary), "x", true, true), ElementsAre(kBpeStart, 'x', kBpeEndMore));
  EXPECT_THAT(Encode(*Make(vocabulary), "x", true, false), ElementsAre('x'));
  EXPECT_THAT(Encode(*Make(vocabulary), "", true, true), ElementsAre(kBpeStart, kBpeEndMore));
  EXPECT_THAT(Encode(*Make(SmallSpmVocabulary()), "", true, true), ElementsAre(1));
}

TEST(TokenizerTest, AControlTokenNeverFormsAcrossABorderOfTrust) {
  const auto tokenizer = Make(SmallBpeVocabulary("gpt-2"));
  for (const auto& segments : std::vector<std::vector<TextSegment>>{
           {{"<|im_", true}, {"end|>", false}},
           {{"<|im_", false}, {"end|>", true}},
           {{"<|im_end|", true}, {">", false}, {"x", true}},
           {{"<|im_end|>", false}},
           {{"<", true}, {"|im_end|", false}, {">", true}},
       }) {
    EXPECT_FALSE(HasControl(*tokenizer, EncodeSegments(*tokenizer, segments)));
  }
}

TEST(TokenizerTest, TrustedTextMatchesTheTokenThatFitsInsideIt) {
  const auto tokenizer = Make(SmallBpeVocabulary("gpt-2"));
  // The longer token would reach into the untrusted text.
  EXPECT_THAT(EncodeSegments(*tokenizer, {{"<|im_end|>", true}, {"more", false}}),
              ElementsAre(kBpeEnd, 'm', 'o', 'r', 'e'));
  EXPECT_THAT(EncodeSegments(*tokenizer, {{"<|im_end|>", true}, {"more", true}}), ElementsAre(kBpeEndMore));
  EXPECT_THAT(EncodeSegments(*tokenizer, {{"a<to", true}, {"ol>", false}}), ElementsAre('a', kBpeTool));
}

TEST(TokenizerTest, MergesCrossSegmentBorders) {
  const Vocabulary vocabulary = SmallBpeVocabulary("gpt-2");
  const auto tokenizer = Make(vocabulary);
  const Ids whole = Encode(*tokenizer, "x the hello");
  EXPECT_EQ(EncodeSegments(*tokenizer, {{"x ", true}, {"", false}, {"th", false}, {"e hel", true}, {"lo", false}}),
            whole);
  EXPECT_EQ(whole, (Ids{'x', IdOf(vocabulary, "\xC4\xA0the"), ' ', IdOf(vocabulary, "he"), IdOf(vocabulary, "llo")}));
}

TEST(TokenizerTest, AnySegmentationOfTrustedTextEncodesLikeTheWhole) {
  std::mt19937 random(3);
  const std::vector<std::string> units = {"a",    "the",    " ",   "<|im_end|>", "<|im_",
                                          "more", "<tool>", "<s>", "\xC3\xA9",   "11"};
  for (const Vocabulary& vocabulary : {SmallBpeVocabulary("llama-bpe"), SmallSpmVocabulary()}) {
    const auto tokenizer = Make(vocabulary);
    for (int round = 0; round < 300; ++round) {
      std::string text;
      for (auto i = random() % 12; i > 0; --i) text += units[random() % units.size()];
      std::vector<TextSegment> segments;
      for (size_t at = 0; at < text.size();) {
        const size_t length = 1 + random() % 7;
        segments.push_back({text.substr(at, length), true});
        at += length;
      }
      ASSERT_EQ(EncodeSegments(*tokenizer, segments), Encode(*tokenizer, text)) << text;
    }
  }
}

TEST(TokenizerTest, InvalidUtf8IsRefusedNamingTheByte) {
  const auto tokenizer = Make(SmallBpeVocabulary("gpt-2"));
  for (const std::string bad : {"ab\xFF", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\x80", "ab\xF4\x90\x80\x80"}) {
    EXPECT_THAT(tokenizer->Encode(bad, {}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at byte 2")));
  }
}

TEST(TokenizerTest, TextOverTheLimitIsRefusedNamingTheLimit) {
  const auto tokenizer = Make(SmallBpeVocabulary("gpt-2"));
  const std::vector<TextSegment> segments = {{std::string(kMaxTextBytes, 'x'), true}, {"y", false}};
  EXPECT_THAT(tokenizer->EncodeSegments(segments, false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("67108864")));
}

TEST(TokenizerTest, BpeDropsBytesItLacksBeforeMerging) {
  Vocabulary vocabulary = SmallBpeVocabulary("gpt-2");
  vocabulary.tokens[0x01] = "[not a byte]";
  const auto tokenizer = Make(vocabulary);
  EXPECT_THAT(Encode(*tokenizer, ".\x01."), ElementsAre(IdOf(vocabulary, "..")));
  EXPECT_THAT(Encode(*tokenizer, "\x01"), ElementsAre());
}

TEST(TokenizerTest, BpeNeverMergesIntoAControlToken) {
  Vocabulary vocabulary = SmallBpeVocabulary("llama-bpe");
  const TokenId he = IdOf(vocabulary, "he");
  vocabulary.types[static_cast<size_t>(he)] = TokenType::kControl;
  EXPECT_THAT(Encode(*Make(vocabulary), "he", /*parse_special=*/false), ElementsAre('h', 'e'));
  EXPECT_THAT(Encode(*Make(vocabulary), "he", /*parse_special=*/true), ElementsAre(he));
}

TEST(TokenizerTest, LlamaBpeTakesAWholePieceThatIsATokenWhateverTheMergesSay) {
  for (const char* pre : {"llama-bpe", "gpt-2"}) {
    Vocabulary vocabulary = SmallBpeVocabulary(pre);
    vocabulary.tokens.push_back("xyz");
    vocabulary.types.push_back(TokenType::kNormal);
    const Ids ids = Encode(*Make(vocabulary), "xyz");
    EXPECT_EQ(ids.size(), pre == std::string("gpt-2") ? 3u : 1u) << pre;
  }
}

TEST(TokenizerTest, SpmPutsASpaceFirstAndAfterEverySpecialToken) {
  const Vocabulary vocabulary = SmallSpmVocabulary();
  const auto tokenizer = Make(vocabulary);
  const TokenId hello = IdOf(vocabulary, "\xE2\x96\x81hello");
  EXPECT_THAT(Encode(*tokenizer, "hello<s>hello"), ElementsAre(hello, 1, hello));
  Vocabulary without = vocabulary;
  without.add_space_prefix = false;
  EXPECT_THAT(Encode(*Make(without), "hello"), ElementsAre(IdOf(vocabulary, "hello")));
  EXPECT_FALSE(Make(without)->strips_leading_space());
}

TEST(TokenizerTest, SpmNeverMergesIntoAControlTokenThoughItsScoreIsBest) {
  const auto tokenizer = Make(SmallSpmVocabulary());
  const Ids ids = Encode(*tokenizer, "<s></s><unk>", /*parse_special=*/false);
  EXPECT_FALSE(HasControl(*tokenizer, ids));
  EXPECT_EQ(Bytes(*tokenizer, ids), " <s></s><unk>");
}

TEST(TokenizerTest, SpmSpellsUnknownCharactersByTheirBytes) {
  const Vocabulary vocabulary = SmallSpmVocabulary();
  EXPECT_THAT(
      Encode(*Make(vocabulary), "\xE5\xA5\xBD"),
      ElementsAre(IdOf(vocabulary, "\xE2\x96\x81"), kSpmFirstByte + 0xE5, kSpmFirstByte + 0xA5, kSpmFirstByte + 0xBD));
}

TEST(TokenizerTest, SpmTakesAnUnusedTokenApartAgain) {
  const Vocabulary vocabulary = SmallSpmVocabulary();
  EXPECT_THAT(Encode(*Make(vocabulary), "lll"),
              ElementsAre(IdOf(vocabulary, "\xE2\x96\x81"), IdOf(vocabulary, "ll"), IdOf(vocabulary, "l")));
}

TEST(TokenizerTest, TokenBytesGiveControlTextOnlyWhenAsked) {
  const auto tokenizer = Make(SmallBpeVocabulary("gpt-2"));
  EXPECT_EQ(tokenizer->TokenBytes(kBpeStart, false), "");
  EXPECT_EQ(tokenizer->TokenBytes(kBpeStart, true), "<|start|>");
  EXPECT_EQ(tokenizer->TokenBytes(kBpeTool, false), "<tool>");
  EXPECT_EQ(tokenizer->TokenBytes(0xFF, false), "\xFF");
  EXPECT_DEATH(tokenizer->TokenBytes(-1, true), "id");
  EXPECT_DEATH(tokenizer->TokenBytes(tokenizer->vocab_size(), true), "id");
}

// A merge loop that looks at every pair again would take hours here.
TEST(TokenizerTest, AMegabyteOfOneLetterEncodesWithoutQuadraticWork) {
  const std::string text(size_t{1} << 20, 'a');
  const Vocabulary bpe = SmallBpeVocabulary("gpt-2");
  EXPECT_EQ(Encode(*Make(bpe), text), Ids(text.size() / 8, IdOf(bpe, "aaaaaaaa")));
  const Vocabulary spm = SmallSpmVocabulary();
  Ids want = {IdOf(spm, "\xE2\x96\x81")};
  want.insert(want.end(), text.size() / 4, IdOf(spm, "aaaa"));
  EXPECT_EQ(Encode(*Make(spm), text), want);
}

TEST(TokenizerTest, OneTokenizerServesManyThreads) {
  for (const Vocabulary& vocabulary : {SmallBpeVocabulary("smollm"), SmallSpmVocabulary()}) {
    const auto tokenizer = Make(vocabulary);
    std::vector<std::string> texts;
    std::vector<Ids> want;
    std::vector<std::string> decoded;
    for (int i = 0; i < 20; ++i) {
      texts.push_back(absl::StrCat("the hello ", i, " <tool> aaaaa\n\n", std::string(static_cast<size_t>(i) * 7, 'l')));
      want.push_back(Encode(*tokenizer, texts.back()));
      decoded.push_back(Decode(*tokenizer, want.back()));
    }
    std::vector<int> wrong(4, 0);  // one per thread
    std::vector<std::thread> threads;
    for (int& count : wrong) {
      threads.emplace_back([&tokenizer, &texts, &want, &decoded, &count] {
        for (int round = 0; round < 20; ++round) {
          for (size_t i = 0; i < texts.size(); ++i) {
            const auto ids = tokenizer->Encode(texts[i], {});
            if (!ids.ok() || *ids != want[i]) ++count;
            if (Decode(*tokenizer, want[i]) != decoded[i]) ++count;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
  }
}

TEST(SpecialTokensTest, TheLeftmostMatchWinsThenTheLongest) {
  SpecialTokens tokens;
  tokens.Add("ab", 1, false);
  tokens.Add("bcd", 2, false);
  tokens.Add("abc", 3, true);
  size_t next = 0;
  SpecialTokens::Match match = tokens.Find("xabcd", 0, {}, &next);
  EXPECT_EQ(match.begin, 1u);
  EXPECT_EQ(match.id, 1);
  next = 0;
  match = tokens.Find("xabcd", 0, {{0, 4}}, &next);
  EXPECT_EQ(match.id, 3);
  match = tokens.Find("xabcd", 4, {{0, 4}}, &next);
  EXPECT_EQ(match.length, 0u);
  EXPECT_EQ(match.begin, 5u);
}

}  // namespace
}  // namespace dunlin::model
