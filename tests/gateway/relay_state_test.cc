#include "gateway/relay_state.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "proto/status_map.h"
#include "tests/gateway/tiny_model.h"

namespace dunlin::gateway {
namespace {

using ::dunlin::testing::BytesAsTokens;
using ::dunlin::testing::TinyTokenizer;
using Action = RelayState::Action;

RequestPlan Plan(const v1::GenerateRequest& request, std::vector<uint32_t> prompt_ids = {10, 11, 12}) {
  RequestPlan plan = MakePlan(request, {}, /*random_seed=*/77, std::move(prompt_ids), /*context_tokens=*/100);
  plan.request_id = "r1";
  plan.model = "m";
  plan.worker_id = "w0";
  return plan;
}

worker::v1::GenerateResponse Scheduled(uint32_t cached = 0) {
  worker::v1::GenerateResponse event;
  event.mutable_scheduled()->set_cached_prompt_tokens(cached);
  return event;
}

worker::v1::GenerateResponse Text(absl::string_view text, uint32_t index = 0) {
  worker::v1::GenerateResponse event;
  event.mutable_tokens()->set_index(index);
  for (const uint32_t id : BytesAsTokens(text)) event.mutable_tokens()->add_ids(id);
  return event;
}

worker::v1::GenerateResponse Finished(v1::FinishReason reason, uint32_t index = 0) {
  worker::v1::GenerateResponse event;
  event.mutable_finished()->set_index(index);
  event.mutable_finished()->set_reason(reason);
  return event;
}

worker::v1::GenerateResponse Summary() {
  worker::v1::GenerateResponse event;
  event.mutable_summary()->mutable_timing()->set_bytes_read(1234);
  return event;
}

// Drives a state with an obedient writer and keeps what was written.
struct Harness {
  FakeClock clock;
  RelayState state{&TinyTokenizer(), &clock, nullptr};
  std::vector<v1::GenerateResponse> written;
  int finishes = 0;

  explicit Harness(const v1::GenerateRequest& request = {}) { state.Begin(Plan(request), absl::ZeroDuration()); }
  void Drain() {
    for (Action action = state.Next(); action != Action::kNone; action = state.Next()) {
      if (action == Action::kFinish) {
        ++finishes;
      } else {
        written.push_back(state.message());
        state.OnWriteDone(true);
      }
    }
  }
  std::string AllText(uint32_t index = 0) const {
    std::string text;
    for (const auto& m : written) {
      if (m.has_delta() && m.delta().index() == index) text += m.delta().text();
    }
    return text;
  }
};

TEST(RelayState, NothingIsSentBeforeTheWorkerReports) {
  Harness h;
  h.Drain();
  EXPECT_TRUE(h.written.empty());
  EXPECT_TRUE(h.state.wants_worker_event());
}

TEST(RelayState, EventsComeInOrderNumberedFromZero) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled(2));
  h.Drain();
  h.state.OnWorkerEvent(Text("hel"));
  h.Drain();
  h.state.OnWorkerEvent(Text("lo"));
  h.Drain();
  h.state.OnWorkerEvent(Finished(v1::FINISH_REASON_EOS));
  h.state.OnWorkerEvent(Summary());
  h.Drain();
  ASSERT_EQ(h.written.size(), 5u);
  for (size_t i = 0; i < h.written.size(); ++i) EXPECT_EQ(h.written[i].sequence(), i);
  EXPECT_EQ(h.written[0].accepted().request_id(), "r1");
  EXPECT_EQ(h.written[0].accepted().worker_id(), "w0");
  EXPECT_EQ(h.written[0].accepted().prompt_tokens(), 3u);
  EXPECT_EQ(h.written[0].accepted().cached_prompt_tokens(), 2u);
  EXPECT_FLOAT_EQ(h.written[0].accepted().sampling().temperature(), 1.0f);
  EXPECT_EQ(h.written[1].delta().text(), "hel");
  EXPECT_EQ(h.written[2].delta().text(), "lo");
  EXPECT_EQ(h.written[3].finished().reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(h.written[3].finished().seed_used(), 77u);
  EXPECT_EQ(h.written[4].summary().usage().completion_tokens(), 5u);
  EXPECT_EQ(h.written[4].summary().timing().bytes_read(), 1234u);
  EXPECT_EQ(h.finishes, 1);
  EXPECT_TRUE(h.state.status().ok());
  EXPECT_EQ(h.state.Next(), Action::kNone);
}

TEST(RelayState, OneWriteIsInFlightAndWhatComesMeanwhileIsMerged) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled());
  ASSERT_EQ(h.state.Next(), Action::kWrite);  // accepted, in flight
  for (const char* piece : {"a", "b", "c"}) {
    h.state.OnWorkerEvent(Text(piece));
    EXPECT_EQ(h.state.Next(), Action::kNone);
  }
  h.state.OnWorkerEvent(Finished(v1::FINISH_REASON_EOS));
  h.state.OnWorkerEvent(Summary());
  EXPECT_EQ(h.state.Next(), Action::kNone) << "no finish while a write is in flight";
  h.state.OnWriteDone(true);
  h.Drain();
  ASSERT_EQ(h.written.size(), 3u);
  EXPECT_EQ(h.written[0].delta().text(), "abc");
  EXPECT_EQ(h.finishes, 1);
}

TEST(RelayState, ASlowClientStopsTheReadingAndAFastOneResumesIt) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled());
  ASSERT_EQ(h.state.Next(), Action::kWrite);
  int events = 0;
  while (h.state.wants_worker_event()) {
    h.state.OnWorkerEvent(Text(std::string(512, 'x')));
    ASSERT_LT(++events, 1000);
  }
  EXPECT_GE(static_cast<size_t>(events) * 512, RelayState::kMaxPendingBytes - 4096);
  h.state.OnWriteDone(true);
  ASSERT_EQ(h.state.Next(), Action::kWrite);
  EXPECT_TRUE(h.state.wants_worker_event());
  EXPECT_EQ(h.state.message().delta().text().size(), static_cast<size_t>(events) * 512);
}

TEST(RelayState, AStopStringEndsTheStreamWithoutTheWorker) {
  v1::GenerateRequest request;
  request.mutable_stopping()->add_stop("END");
  Harness h(request);
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("oneE"));
  h.state.OnWorkerEvent(Text("NDtwo"));
  EXPECT_TRUE(h.state.ended());
  EXPECT_FALSE(h.state.wants_worker_event());
  h.state.OnWorkerEvent(Text("late"));  // ignored
  h.Drain();
  EXPECT_EQ(h.AllText(), "one");
  const auto& finished = h.written[h.written.size() - 2].finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished.stop(), "END");
  EXPECT_EQ(h.written.back().summary().usage().completion_tokens(), 6u);
  EXPECT_TRUE(h.state.status().ok());
}

TEST(RelayState, ChoicesEndOnTheirOwnAndTheSummaryComesLast) {
  v1::GenerateRequest request;
  request.mutable_sampling()->set_n(2);
  request.mutable_stopping()->add_stop("!");
  Harness h(request);
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("a!", 0));
  EXPECT_FALSE(h.state.ended());
  h.state.OnWorkerEvent(Text("zz", 0));  // the worker does not know yet
  h.state.OnWorkerEvent(Text("b", 1));
  h.state.OnWorkerEvent(Finished(v1::FINISH_REASON_LENGTH, 0));
  h.state.OnWorkerEvent(Finished(v1::FINISH_REASON_EOS, 1));
  h.state.OnWorkerEvent(Summary());
  h.Drain();
  EXPECT_EQ(h.AllText(0), "a");
  EXPECT_EQ(h.AllText(1), "b");
  int finished = 0;
  for (const auto& m : h.written) finished += m.has_finished();
  EXPECT_EQ(finished, 2);
  EXPECT_TRUE(h.written.back().has_summary());
  EXPECT_EQ(h.written.back().summary().usage().completion_tokens(), 3u);
}

TEST(RelayState, AStopStringEndsItsChoiceWithoutWaitingForTheWorker) {
  v1::GenerateRequest request;
  request.mutable_sampling()->set_n(2);
  request.mutable_stopping()->add_stop("!");
  Harness h(request);
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("a!", 0));
  h.state.OnWorkerEvent(Text("b", 1));
  EXPECT_FALSE(h.state.ended());
  h.state.OnWorkerEvent(Finished(v1::FINISH_REASON_EOS, 1));  // nothing about choice 0, which the worker still runs
  h.Drain();
  EXPECT_TRUE(h.state.ended());
  EXPECT_TRUE(h.written.back().has_summary());
  EXPECT_EQ(h.written.back().summary().usage().completion_tokens(), 3u);
}

TEST(RelayState, RunningOutOfContextIsNotRunningOutOfMaxTokens) {
  for (const bool asked : {false, true}) {
    v1::GenerateRequest request;
    if (asked) request.mutable_stopping()->set_max_tokens(5);
    Harness h(request);
    h.state.OnWorkerEvent(Scheduled());
    h.state.OnWorkerEvent(Finished(v1::FINISH_REASON_LENGTH));
    h.Drain();
    EXPECT_EQ(h.written.back().finished().reason(), asked ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_CONTEXT_FULL);
  }
}

TEST(RelayState, ALostWorkerIsUnavailableAndSaysHowFarItGot) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("abc"));
  h.state.OnWorkerEnd(absl::UnavailableError("Socket closed"));
  h.Drain();
  EXPECT_EQ(h.AllText(), "abc") << "what had arrived is delivered first";
  EXPECT_EQ(h.state.status().code(), absl::StatusCode::kUnavailable);
  const auto info = GetErrorInfo(h.state.status());
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason, "WORKER_LOST");
  EXPECT_EQ(info->domain, "dunlin");
  EXPECT_EQ(info->metadata.at("position"), "3");
  EXPECT_EQ(h.finishes, 1);
}

TEST(RelayState, AnEndWithoutASummaryIsALostWorkerToo) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEnd(absl::OkStatus());
  h.Drain();
  EXPECT_EQ(GetErrorInfo(h.state.status())->reason, "WORKER_LOST");
}

TEST(RelayState, AWorkersRefusalReachesTheClientUnchanged) {
  Harness h;
  h.state.OnWorkerEnd(absl::ResourceExhaustedError("inbox is full"));
  h.Drain();
  EXPECT_EQ(h.state.status(), absl::ResourceExhaustedError("inbox is full"));
  EXPECT_TRUE(h.written.empty()) << "no accepted event: the client may retry";
}

TEST(RelayState, CancellingAtEveryStepFinishesExactlyOnce) {
  const std::vector<worker::v1::GenerateResponse> script = {Scheduled(), Text("ab"), Text("cd"),
                                                            Finished(v1::FINISH_REASON_EOS), Summary()};
  for (size_t cancel_at = 0; cancel_at <= script.size(); ++cancel_at) {
    for (const bool in_flight : {false, true}) {
      Harness h;
      for (size_t i = 0; i < cancel_at; ++i) {
        h.state.OnWorkerEvent(script[i]);
        if (i + 1 < cancel_at || !in_flight) h.Drain();
      }
      const bool writing = in_flight && h.state.Next() == Action::kWrite;
      h.state.End(absl::CancelledError("gone"));
      h.state.OnWorkerEvent(Text("late"));
      h.state.OnWorkerEnd(absl::CancelledError(""));
      if (writing) {
        EXPECT_EQ(h.state.Next(), Action::kNone);
        h.state.OnWriteDone(false);
      }
      h.Drain();
      EXPECT_EQ(h.finishes, 1) << cancel_at << in_flight;
    }
  }
}

TEST(RelayState, AnOperatorsAbortEndsInGoodOrder) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("ab"));
  h.state.Abort();
  h.Drain();
  EXPECT_EQ(h.written[h.written.size() - 2].finished().reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(h.written.back().has_summary());
  EXPECT_TRUE(h.state.status().ok());
}

TEST(RelayState, EchoAloneNeedsNoWorker) {
  v1::GenerateRequest request;
  request.mutable_output()->set_echo(true);
  request.mutable_stopping()->set_max_tokens(0);
  Harness h(request);
  EXPECT_FALSE(h.state.wants_worker_event());
  h.Drain();
  ASSERT_EQ(h.written.size(), 4u);
  EXPECT_TRUE(h.written[0].has_accepted());
  ASSERT_EQ(h.written[1].prompt().tokens_size(), 3);
  EXPECT_EQ(h.written[1].prompt().tokens(0).id(), 10u);
  EXPECT_FALSE(h.written[1].prompt().tokens(1).has_logprob());
  EXPECT_EQ(h.written[2].finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(h.written[3].has_summary());
}

TEST(RelayState, ADryRunEndsWithTheSummary) {
  v1::GenerateRequest request;
  request.set_dry_run(true);
  Harness h(request);
  h.Drain();
  ASSERT_EQ(h.written.size(), 2u);
  EXPECT_EQ(h.written[1].summary().usage().prompt_tokens(), 3u);
  EXPECT_EQ(h.finishes, 1);
}

TEST(RelayState, PromptLogprobsDescribeEveryTokenButTheFirst) {
  v1::GenerateRequest request;
  request.mutable_output()->set_prompt_logprobs(0);
  Harness h(request);
  h.state.OnWorkerEvent(Scheduled());
  for (int i = 0; i < 2; ++i) {
    worker::v1::GenerateResponse event;
    worker::v1::TokenLogprob* logprob = event.mutable_prompt()->add_logprobs();
    logprob->set_logprob(static_cast<float>(-1 - i));
    logprob->set_rank(1);
    h.state.OnWorkerEvent(event);
    h.Drain();
  }
  ASSERT_EQ(h.written.size(), 2u);
  const auto& tokens = h.written[1].prompt().tokens();
  ASSERT_EQ(tokens.size(), 3);
  EXPECT_FALSE(tokens[0].has_logprob());
  EXPECT_FLOAT_EQ(tokens[1].logprob(), -1.0f);
  EXPECT_FLOAT_EQ(tokens[2].logprob(), -2.0f);
}

TEST(RelayState, ALongPromptIsEchoedInEventsThatFitAMessage) {
  v1::GenerateRequest request;
  request.mutable_output()->set_echo(true);
  FakeClock clock;
  RelayState state(&TinyTokenizer(), &clock, nullptr);
  RequestPlan plan = MakePlan(request, {}, 1, std::vector<uint32_t>(1000, 7), 2000);
  state.Begin(std::move(plan), absl::ZeroDuration());
  state.OnWorkerEvent(Scheduled());
  int tokens = 0;
  for (Action action = state.Next(); action == Action::kWrite; action = state.Next()) {
    tokens += state.message().prompt().tokens_size();
    EXPECT_LT(state.message().ByteSizeLong(), 1u << 20);
    state.OnWriteDone(true);
  }
  EXPECT_EQ(tokens, 1000);
}

TEST(RelayState, ABadChoiceIndexFromTheWorkerIsAnError) {
  Harness h;
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("x", 3));
  h.Drain();
  EXPECT_EQ(h.state.status().code(), absl::StatusCode::kInternal);
}

TEST(RelayState, TimesAreThoseTheClientSees) {
  Harness h;
  h.clock.Advance(absl::Milliseconds(50));
  h.state.OnWorkerEvent(Scheduled());
  h.state.OnWorkerEvent(Text("a"));
  h.clock.Advance(absl::Milliseconds(20));
  h.state.OnWorkerEvent(Text("bc"));
  h.state.Abort();  // no worker summary: the gateway's own figures
  h.Drain();
  const v1::Timing& timing = h.written.back().summary().timing();
  EXPECT_EQ(timing.ttft().nanos(), 50'000'000);
  EXPECT_EQ(timing.decode().nanos(), 20'000'000);
  EXPECT_NEAR(timing.itl_p50().nanos(), 10'000'000, 1'000);
}

}  // namespace
}  // namespace dunlin::gateway
