#include "gateway/text/choice_assembler.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gateway/tiny_model.h"
#include "tests/support/status_matchers.h"

namespace dunlin::gateway {
namespace {

using ::dunlin::testing::BytesAsTokens;
using ::dunlin::testing::kEndToken;
using ::dunlin::testing::TinyTokenizer;
using ::testing::HasSubstr;

worker::v1::Tokens Tokens(const std::vector<uint32_t>& ids) {
  worker::v1::Tokens tokens;
  tokens.mutable_ids()->Add(ids.begin(), ids.end());
  return tokens;
}

// The text of each delta when the tokens come one by one.
std::vector<std::string> Deltas(ChoiceAssembler* assembler, const std::vector<uint32_t>& ids) {
  std::vector<std::string> texts;
  v1::Delta delta;
  for (const uint32_t id : ids) {
    if (assembler->matched_stop().has_value()) break;
    EXPECT_OK(assembler->Append(Tokens({id})));
    if (assembler->TakeDelta(&delta)) texts.push_back(delta.text());
  }
  assembler->Finish();
  if (assembler->TakeDelta(&delta)) texts.push_back(delta.text());
  return texts;
}

TEST(ChoiceAssembler, NeverSplitsACodePoint) {
  ChoiceAssembler assembler(&TinyTokenizer(), {});
  EXPECT_EQ(Deltas(&assembler, BytesAsTokens("aé😀z")), (std::vector<std::string>{"a", "é", "😀", "z"}));
  EXPECT_FALSE(assembler.lossy());
  EXPECT_EQ(assembler.num_tokens(), 8u);
}

TEST(ChoiceAssembler, AnUnfinishedCodePointBecomesAReplacementAtTheEnd) {
  ChoiceAssembler assembler(&TinyTokenizer(), {});
  EXPECT_EQ(Deltas(&assembler, BytesAsTokens("a\xF0\x9F")), (std::vector<std::string>{"a", "\xEF\xBF\xBD"}));
  EXPECT_TRUE(assembler.lossy());
}

TEST(ChoiceAssembler, StopsAtAStringAndCountsTheTokensItWithholds) {
  ChoiceAssembler assembler(&TinyTokenizer(), {.stop = {"STOP"}});
  EXPECT_EQ(Deltas(&assembler, BytesAsTokens("abSTOPcd")), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(assembler.matched_stop(), "STOP");
  EXPECT_EQ(assembler.num_tokens(), 6u);
}

TEST(ChoiceAssembler, TheResultDoesNotDependOnHowTokensAreGrouped) {
  const std::vector<uint32_t> ids = BytesAsTokens("naïve STOP rest");
  for (size_t group = 1; group <= ids.size(); ++group) {
    ChoiceAssembler assembler(&TinyTokenizer(), {.stop = {"STOP"}, .token_ids = true});
    std::string text;
    std::vector<uint32_t> seen;
    for (size_t i = 0; i < ids.size(); i += group) {
      const size_t end = std::min(i + group, ids.size());
      EXPECT_OK(assembler.Append(
          Tokens({ids.begin() + static_cast<std::ptrdiff_t>(i), ids.begin() + static_cast<std::ptrdiff_t>(end)})));
      v1::Delta delta;
      if (!assembler.TakeDelta(&delta)) continue;
      text += delta.text();
      seen.insert(seen.end(), delta.token_ids().begin(), delta.token_ids().end());
    }
    EXPECT_EQ(text, "naïve ");
    EXPECT_EQ(assembler.num_tokens(), 11u) << group;
    EXPECT_EQ(seen.size(), 11u) << group;
  }
}

TEST(ChoiceAssembler, IncludeStopLetsTheStringThrough) {
  ChoiceAssembler assembler(&TinyTokenizer(), {.stop = {"!"}, .include_stop = true});
  EXPECT_EQ(Deltas(&assembler, BytesAsTokens("hi!x")), (std::vector<std::string>{"h", "i", "!"}));
}

TEST(ChoiceAssembler, WithholdsTheTextOfAStopTokenAndOfControlTokens) {
  ChoiceAssembler assembler(&TinyTokenizer(), {.stop_token_ids = {BytesAsTokens("!")[0]}, .token_ids = true});
  EXPECT_OK(assembler.Append(Tokens({BytesAsTokens("a")[0], kEndToken, BytesAsTokens("!")[0]})));
  assembler.Finish();
  v1::Delta delta;
  ASSERT_TRUE(assembler.TakeDelta(&delta));
  EXPECT_EQ(delta.text(), "a");
  EXPECT_EQ(delta.token_ids_size(), 3);
}

TEST(ChoiceAssembler, StopStringsDoNotCountBeforeMinTokens) {
  ChoiceAssembler assembler(&TinyTokenizer(), {.stop = {"x"}, .min_tokens = 3});
  EXPECT_EQ(Deltas(&assembler, BytesAsTokens("axaxa")), (std::vector<std::string>{"a", "x", "a"}));
  EXPECT_EQ(assembler.num_tokens(), 4u);
}

TEST(ChoiceAssembler, GathersTheIntervalAskedAndFlushesAtTheEnd) {
  ChoiceAssembler assembler(&TinyTokenizer(), {.stream_interval_tokens = 3});
  EXPECT_EQ(Deltas(&assembler, BytesAsTokens("abcdefg")), (std::vector<std::string>{"abc", "def", "g"}));
}

TEST(ChoiceAssembler, RecordsCarryTheTokensOwnBytesAndItsDistribution) {
  ChoiceAssembler assembler(&TinyTokenizer(), {.logprobs = true});
  worker::v1::Tokens tokens = Tokens(BytesAsTokens("é"));
  for (int i = 0; i < 2; ++i) {
    worker::v1::TokenLogprob* logprob = tokens.add_logprobs();
    logprob->set_logprob(-0.5f);
    logprob->set_rank(2);
    logprob->add_top_ids(kEndToken);
    logprob->add_top_logprobs(-0.25f);
    logprob->add_top_ids(4'000'000);  // outside the vocabulary: left out
    logprob->add_top_logprobs(-9.0f);
  }
  EXPECT_OK(assembler.Append(tokens));
  v1::Delta delta;
  ASSERT_TRUE(assembler.TakeDelta(&delta));
  ASSERT_EQ(delta.tokens_size(), 2);
  EXPECT_EQ(delta.tokens(0).text(), "\xC3");
  EXPECT_EQ(delta.tokens(1).text(), "\xA9");
  EXPECT_EQ(delta.tokens(0).rank(), 2u);
  EXPECT_FLOAT_EQ(delta.tokens(0).logprob(), -0.5f);
  ASSERT_EQ(delta.tokens(0).top_size(), 1);
  EXPECT_EQ(delta.tokens(0).top(0).text(), "<|im_end|>");
}

TEST(ChoiceAssembler, RefusesWhatAWorkerMustNotSend) {
  ChoiceAssembler assembler(&TinyTokenizer(), {});
  EXPECT_THAT(assembler.Append(Tokens({4'000'000})),
              testing::StatusIs(absl::StatusCode::kInternal, HasSubstr("4000000")));
  worker::v1::Tokens tokens = Tokens({5, 6});
  tokens.add_logprobs();
  EXPECT_THAT(assembler.Append(tokens), testing::StatusIs(absl::StatusCode::kInternal, HasSubstr("1 log")));
}

}  // namespace
}  // namespace dunlin::gateway
