// What a vocabulary must not say, and how a GGUF file says it.
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocabulary.h"
#include "tests/model/tokenizer/small_vocabulary.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::GgufBuilder;
using dunlin::testing::SmallBpeVocabulary;
using dunlin::testing::SmallSpmVocabulary;
using dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

absl::Status CreateWith(Vocabulary vocabulary, const std::function<void(Vocabulary&)>& spoil) {
  spoil(vocabulary);
  return CreateTokenizer(vocabulary).status();
}
absl::Status BpeWith(const std::function<void(Vocabulary&)>& spoil) {
  return CreateWith(SmallBpeVocabulary("gpt-2"), spoil);
}
absl::Status SpmWith(const std::function<void(Vocabulary&)>& spoil) { return CreateWith(SmallSpmVocabulary(), spoil); }

TEST(TokenizerCreateTest, AnUnknownModelOrPreTokenizerIsRefusedNamingItAndTheKnownOnes) {
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.model = "bert"; }),
              StatusIs(kUnimplemented, AllOf(HasSubstr("\"bert\""), HasSubstr("gpt2"), HasSubstr("llama"))));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.pre = "tekken"; }),
              StatusIs(kUnimplemented, AllOf(HasSubstr("\"tekken\""), HasSubstr("gpt-2, smollm, llama-bpe"))));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.pre = "default"; }), StatusIs(kUnimplemented, HasSubstr("\"default\"")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.pre = ""; }),
              StatusIs(kUnimplemented, HasSubstr("tokenizer.ggml.pre is absent")));
}

TEST(TokenizerCreateTest, OptionsThatAreNotBuiltAreRefused) {
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.add_space_prefix = true; }),
              StatusIs(kUnimplemented, HasSubstr("add_space_prefix")));
  EXPECT_THAT(SpmWith([](Vocabulary& v) { v.remove_extra_whitespaces = true; }),
              StatusIs(kUnimplemented, HasSubstr("remove_extra_whitespaces")));
}

TEST(TokenizerCreateTest, AVocabularyThatContradictsItselfIsRefusedNamingTheKey) {
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.tokens.clear(), v.types.clear(); }),
              StatusIs(kInvalid, HasSubstr("tokenizer.ggml.tokens: 0 entries")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.types.pop_back(); }),
              StatusIs(kInvalid, HasSubstr("tokenizer.ggml.token_type")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.bos_id = static_cast<TokenId>(v.tokens.size()); }),
              StatusIs(kInvalid, HasSubstr("bos_token_id")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.eot_id = -2; }), StatusIs(kInvalid, HasSubstr("eot_token_id = -2")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.bos_id = -1, v.add_bos = true; }),
              StatusIs(kInvalid, HasSubstr("add_bos_token")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.eos_id = -1, v.add_eos = true; }),
              StatusIs(kInvalid, HasSubstr("add_eos_token")));
  EXPECT_THAT(BpeWith([](Vocabulary& v) { v.tokens[dunlin::testing::kBpeEnd] = "<\xFF>"; }),
              StatusIs(kInvalid, HasSubstr("tokens[257]")));
}

TEST(TokenizerCreateTest, AMergeMustJoinTwoTokensIntoAToken) {
  for (const char* merge : {"", " ", "ab", "a ", " a", "a zz", "zz a", "q q"}) {
    EXPECT_THAT(BpeWith([&](Vocabulary& v) { v.merges[1] = merge; }),
                StatusIs(kInvalid, HasSubstr("tokenizer.ggml.merges[1]")))
        << '"' << merge << '"';
  }
}

TEST(TokenizerCreateTest, SpmNeedsScoresAndAllByteTokens) {
  EXPECT_THAT(SpmWith([](Vocabulary& v) { v.scores.clear(); }), StatusIs(kInvalid, HasSubstr("scores: 0 entries")));
  EXPECT_THAT(SpmWith([](Vocabulary& v) { v.scores[300 - 30] = std::numeric_limits<float>::quiet_NaN(); }),
              StatusIs(kInvalid, HasSubstr("scores[270] is not a number")));
  EXPECT_THAT(SpmWith([](Vocabulary& v) { v.types[3 + 0x41] = TokenType::kNormal; }),
              StatusIs(kInvalid, HasSubstr("<0x41>")));
  EXPECT_THAT(SpmWith([](Vocabulary& v) { v.tokens[3 + 0x41] = "<0x4g>"; }), StatusIs(kInvalid, HasSubstr("<0x4g>")));
  EXPECT_THAT(SpmWith([](Vocabulary& v) { v.types.clear(); }), StatusIs(kInvalid, HasSubstr("<0x00>")));
}

TEST(TokenizerCreateTest, BosIsAddedAsTheFamilySaysUnlessTheFileDoes) {
  const auto add_bos = [](const Vocabulary& v) { return (*CreateTokenizer(v))->add_bos(); };
  EXPECT_FALSE(add_bos(SmallBpeVocabulary("gpt-2")));
  EXPECT_TRUE(add_bos(SmallBpeVocabulary("llama-bpe")));
  EXPECT_TRUE(add_bos(SmallSpmVocabulary()));
  Vocabulary said = SmallSpmVocabulary();
  said.add_bos = false;
  EXPECT_FALSE(add_bos(said));
  Vocabulary none = SmallSpmVocabulary();
  none.bos_id = -1;
  EXPECT_FALSE(add_bos(none));
}

TEST(TokenizerCreateTest, GenerationEndsAtEosEotEomAndTheWellKnownControlTexts) {
  Vocabulary v = SmallBpeVocabulary("gpt-2");
  v.eot_id = 7;
  v.eom_id = 3;
  EXPECT_THAT((*CreateTokenizer(v))->end_of_generation(),
              ElementsAre(3, 7, dunlin::testing::kBpeEnd, dunlin::testing::kBpeEndMore));
  v.types[dunlin::testing::kBpeEnd] = TokenType::kNormal;
  EXPECT_THAT((*CreateTokenizer(v))->end_of_generation(), ElementsAre(3, 7, dunlin::testing::kBpeEndMore));
}

GgufBuilder FileOf(const Vocabulary& v) {
  GgufBuilder file;
  std::vector<int32_t> types;
  for (const TokenType type : v.types) types.push_back(static_cast<int32_t>(type));
  file.String("general.architecture", "llama").String("tokenizer.ggml.model", v.model);
  file.String("tokenizer.ggml.pre", v.pre).Strings("tokenizer.ggml.tokens", v.tokens);
  file.I32s("tokenizer.ggml.token_type", types).U32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(v.eos_id));
  file.U32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(v.bos_id));
  if (!v.merges.empty()) file.Strings("tokenizer.ggml.merges", v.merges);
  if (!v.scores.empty()) file.F32s("tokenizer.ggml.scores", v.scores);
  return file;
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFrom(const GgufBuilder& file) {
  const std::string bytes = file.Build();
  ASSIGN_OR_RETURN(const Gguf gguf, Gguf::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  return Tokenizer::Create(gguf);
}

TEST(TokenizerCreateTest, AFileGivesTheSameTokenizerAsItsVocabularyAndMayBeClosed) {
  for (const Vocabulary& v : {SmallBpeVocabulary("qwen2"), SmallSpmVocabulary()}) {
    ASSERT_OK_AND_ASSIGN(const auto from_file, CreateFrom(FileOf(v)));
    ASSERT_OK_AND_ASSIGN(const auto direct, CreateTokenizer(v));
    const std::string text = "<s> the hello<tool>aaaa <|im_end|> \xC3\xA9\xF0\x9F\x98\x80";
    ASSERT_OK_AND_ASSIGN(const auto ids, from_file->Encode(text, {.add_special = true}));
    ASSERT_OK_AND_ASSIGN(const auto want, direct->Encode(text, {.add_special = true}));
    EXPECT_EQ(ids, want);
    EXPECT_EQ(from_file->end_of_generation(), direct->end_of_generation());
    EXPECT_EQ(from_file->pre_tokenizer(), v.pre);
  }
}

TEST(TokenizerCreateTest, AFilesWrongKeysAreNamed) {
  const auto with = [](const std::function<void(GgufBuilder&)>& spoil) {
    GgufBuilder file = FileOf(SmallSpmVocabulary());
    spoil(file);
    return CreateFrom(file).status();
  };
  const auto replace = [&](const char* key, const std::function<void(GgufBuilder&)>& add) {
    return with([&](GgufBuilder& file) {
      file.Remove(key);
      add(file);
    });
  };
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores"}) {
    EXPECT_THAT(with([&](GgufBuilder& file) { file.Remove(key); }), StatusIs(kInvalid, HasSubstr(key))) << key;
    EXPECT_THAT(replace(key, [&](GgufBuilder& file) { file.U32(key, 1); }), StatusIs(kInvalid, HasSubstr(key))) << key;
  }
  const char* types = "tokenizer.ggml.token_type";
  EXPECT_THAT(replace(types,
                      [&](GgufBuilder& file) {
                        file.I32s(types, {1, 7});
                      }),
              StatusIs(kInvalid, HasSubstr("token_type[1] = 7")));
  EXPECT_THAT(replace(types, [&](GgufBuilder& file) { file.F32s(types, {1}); }), StatusIs(kInvalid, HasSubstr(types)));
  const char* bos = "tokenizer.ggml.bos_token_id";
  EXPECT_THAT(replace(bos, [&](GgufBuilder& file) { file.U32(bos, 0xFFFFFFFFu); }), StatusIs(kInvalid, HasSubstr(bos)));
  EXPECT_THAT(replace(bos, [&](GgufBuilder& file) { file.U32(bos, 100000); }), StatusIs(kInvalid, HasSubstr(bos)));
  EXPECT_THAT(with([](GgufBuilder& file) { file.U32("tokenizer.ggml.add_bos_token", 1); }),
              StatusIs(kInvalid, HasSubstr("add_bos_token")));
}

}  // namespace
}  // namespace dunlin::model
