#include "worker/service/choice_merger.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace dunlin::worker {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Streams = std::vector<std::shared_ptr<TokenStream>>;

Streams MakeStreams(size_t n) {
  Streams streams(n);
  for (auto& s : streams) s = std::make_shared<TokenStream>();
  return streams;
}

SequenceEnd Ended(FinishCause cause, uint32_t completion_tokens) {
  SequenceEnd end;
  end.cause = cause;
  end.prompt_tokens = 5;
  end.cached_prompt_tokens = 2;
  end.completion_tokens = completion_tokens;
  end.timing.ttft = absl::Milliseconds(10 * completion_tokens);
  end.timing.kv_pages_peak = 1;
  end.timing.draft_tokens = 4 * completion_tokens;
  end.timing.accepted_draft_tokens = completion_tokens;
  return end;
}
SequenceEnd Broken(const absl::Status& status) {
  SequenceEnd end;
  end.cause = FinishCause::kError;
  end.status = status;
  return end;
}

// Everything that can be sent now, one word per message.
std::vector<std::string> Drain(ChoiceMerger* merger) {
  std::vector<std::string> words;
  v1::GenerateResponse m;
  while (merger->Next(&m)) {
    if (m.has_scheduled()) words.push_back(absl::StrCat("scheduled ", m.scheduled().cached_prompt_tokens()));
    if (m.has_progress()) words.push_back(absl::StrCat("progress ", m.progress().prefill_done_tokens()));
    if (m.has_prompt()) words.push_back(absl::StrCat("prompt ", m.prompt().logprobs_size()));
    if (m.has_tokens())
      words.push_back(absl::StrCat("tokens", m.tokens().index(), " ", absl::StrJoin(m.tokens().ids(), ",")));
    if (m.has_finished()) words.push_back(absl::StrCat("finished", m.finished().index(), " ", m.finished().reason()));
    if (m.has_summary()) words.push_back(absl::StrCat("summary ", m.summary().usage().completion_tokens()));
  }
  return words;
}

TEST(ChoiceMerger, OneChoiceGivesItsEventsInOrder) {
  const Streams s = MakeStreams(1);
  ChoiceMerger merger(s, 0);
  EXPECT_THAT(Drain(&merger), ElementsAre());
  EXPECT_FALSE(merger.ended());
  s[0]->PushScheduled(2);
  s[0]->PushProgress(3);
  EXPECT_THAT(Drain(&merger), ElementsAre("scheduled 2", "progress 3"));
  s[0]->PushToken(7, nullptr);
  s[0]->PushToken(8, nullptr);
  EXPECT_THAT(Drain(&merger), ElementsAre("tokens0 7,8")) << "what came meanwhile is one message";
  s[0]->PushEnd(Ended(FinishCause::kEos, 2));
  EXPECT_THAT(Drain(&merger), ElementsAre(absl::StrCat("finished0 ", dunlin::v1::FINISH_REASON_EOS), "summary 2"));
  EXPECT_TRUE(merger.ended());
  EXPECT_OK(merger.status());
}

TEST(ChoiceMerger, ThreeChoicesShareOneScheduledAndOneSummary) {
  const Streams s = MakeStreams(3);
  ChoiceMerger merger(s, 0);
  for (size_t i = 0; i < 3; ++i) {
    s[i]->PushScheduled(0);
    s[i]->PushToken(static_cast<int32_t>(i), nullptr);
  }
  EXPECT_THAT(Drain(&merger), ElementsAre("scheduled 0", "tokens0 0", "tokens1 1", "tokens2 2"));
  s[1]->PushEnd(Ended(FinishCause::kLength, 1));
  EXPECT_THAT(Drain(&merger), ElementsAre(absl::StrCat("finished1 ", dunlin::v1::FINISH_REASON_LENGTH)));
  EXPECT_FALSE(merger.ended());
  s[2]->PushToken(9, nullptr);
  s[2]->PushEnd(Ended(FinishCause::kLength, 2));
  s[0]->PushEnd(Ended(FinishCause::kMaxTime, 4));
  EXPECT_THAT(Drain(&merger), ElementsAre(absl::StrCat("finished0 ", dunlin::v1::FINISH_REASON_DEADLINE), "tokens2 9",
                                          absl::StrCat("finished2 ", dunlin::v1::FINISH_REASON_LENGTH), "summary 7"));
  EXPECT_TRUE(merger.ended());
}

TEST(ChoiceMerger, TheSummaryMergesUsageAndTiming) {
  const Streams s = MakeStreams(2);
  ChoiceMerger merger(s, 0);
  s[0]->PushEnd(Ended(FinishCause::kLength, 3));
  s[1]->PushEnd(Ended(FinishCause::kLength, 1));
  v1::GenerateResponse m;
  while (merger.Next(&m) && !m.has_summary()) {
  }
  ASSERT_TRUE(m.has_summary());
  EXPECT_EQ(m.summary().usage().prompt_tokens(), 5u);
  EXPECT_EQ(m.summary().usage().cached_prompt_tokens(), 2u);
  EXPECT_EQ(m.summary().usage().completion_tokens(), 4u);
  EXPECT_EQ(m.summary().timing().ttft().nanos(), 10'000'000) << "the earliest first token";
  EXPECT_EQ(m.summary().timing().kv_pages_peak(), 2u);
  EXPECT_EQ(m.summary().timing().draft_tokens(), 16u);
  EXPECT_EQ(m.summary().timing().accepted_draft_tokens(), 4u);
}

TEST(ChoiceMerger, AStopTokenIsNamed) {
  const Streams s = MakeStreams(1);
  ChoiceMerger merger(s, 0);
  SequenceEnd end = Ended(FinishCause::kStopToken, 1);
  end.stop_token = 42;
  s[0]->PushEnd(end);
  v1::GenerateResponse m;
  ASSERT_TRUE(merger.Next(&m));
  EXPECT_EQ(m.finished().reason(), dunlin::v1::FINISH_REASON_STOP);
  EXPECT_EQ(m.finished().stop_token_id(), 42u);
}

TEST(ChoiceMerger, ThePromptsRecordsComeBeforeAnyChoicesTokens) {
  const Streams s = MakeStreams(2);
  ChoiceMerger merger(s, 3);
  s[1]->PushScheduled(0);
  s[1]->PushToken(4, nullptr);
  EXPECT_THAT(Drain(&merger), ElementsAre());
  s[0]->PushPromptLogprob({-1.0f, 1, {2}, {-0.5f}});
  EXPECT_THAT(Drain(&merger), ElementsAre("prompt 1"));
  s[0]->PushPromptLogprob({});
  s[0]->PushPromptLogprob({});
  EXPECT_THAT(Drain(&merger), ElementsAre("prompt 2", "scheduled 0", "tokens1 4"));
}

TEST(ChoiceMerger, LogprobsTravelWithTheirTokens) {
  const Streams s = MakeStreams(1);
  ChoiceMerger merger(s, 0);
  const TokenLogprob record = {-0.25f, 2, {9, 7}, {-0.125f, -0.25f}};
  s[0]->PushToken(7, &record);
  v1::GenerateResponse m;
  ASSERT_TRUE(merger.Next(&m));
  ASSERT_EQ(m.tokens().logprobs_size(), 1);
  EXPECT_EQ(m.tokens().logprobs(0).logprob(), -0.25f);
  EXPECT_EQ(m.tokens().logprobs(0).rank(), 2u);
  EXPECT_THAT(m.tokens().logprobs(0).top_ids(), ElementsAre(9u, 7u));
  EXPECT_THAT(m.tokens().logprobs(0).top_logprobs(), ElementsAre(-0.125f, -0.25f));
}

TEST(ChoiceMerger, AnErrorEndsTheRequestAfterWhatWasSampled) {
  const Streams s = MakeStreams(2);
  ChoiceMerger merger(s, 0);
  s[0]->PushToken(1, nullptr);
  s[0]->PushEnd(Broken(absl::UnavailableError("device lost")));
  EXPECT_THAT(Drain(&merger), ElementsAre("tokens0 1"));
  EXPECT_TRUE(merger.failed());
  EXPECT_FALSE(merger.ended()) << "the other choice still runs";
  s[1]->PushEnd(Broken(absl::CancelledError("cancelled")));
  EXPECT_THAT(Drain(&merger), ElementsAre());
  EXPECT_TRUE(merger.ended());
  EXPECT_THAT(merger.status(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("device lost")));
}

TEST(ChoiceMerger, ARefusedChoiceIsTheRequestsStatus) {
  const Streams s = MakeStreams(3);
  ChoiceMerger merger(s, 0);
  merger.NeverBegan(1, absl::ResourceExhaustedError("inbox full"));
  EXPECT_TRUE(merger.failed());
  EXPECT_THAT(Drain(&merger), ElementsAre());
  EXPECT_FALSE(merger.ended()) << "choice 0 was submitted";
  s[0]->PushEnd(Broken(absl::CancelledError("cancelled")));
  EXPECT_THAT(Drain(&merger), ElementsAre());
  EXPECT_TRUE(merger.ended());
  EXPECT_THAT(merger.status(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("inbox full")));
}

TEST(ChoiceMerger, ForAClientThatIsGoneOnlyTheEndsMatter) {
  const Streams s = MakeStreams(1);
  ChoiceMerger merger(s, 0);
  s[0]->PushToken(1, nullptr);
  merger.Discard();
  EXPECT_THAT(Drain(&merger), ElementsAre());
  EXPECT_FALSE(merger.ended());
  s[0]->PushEnd(Ended(FinishCause::kLength, 1));
  EXPECT_THAT(Drain(&merger), ElementsAre());
  EXPECT_TRUE(merger.ended());
}

}  // namespace
}  // namespace dunlin::worker
