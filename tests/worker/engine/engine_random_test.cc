// Random clients against the engine on tiny pools, with a runner that runs ahead and one that does not: submissions of
// every kind with shared prefixes, several tenants and priorities, cancellations, deadlines, clock jumps, slow readers,
// flushes, a host tier that loses records, several steps per plan, drafts that are right, wrong and in between,
// promises so small that somebody is preempted all the time, lost devices. After every step the invariants hold and
// whatever had to end has ended; what a client was told is always what the same request gives alone in plain code: a
// hit is a miss, a preempted sequence an undisturbed one, a chunked prompt a whole one.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/engine/core_harness.h"
#include "tests/worker/engine/naive_generation.h"

namespace dunlin::testing {
namespace {

using worker::FinishCause;
using worker::NewSequence;

constexpr int kVocab = 31;
constexpr size_t kMaxUnreadBytes = 60;
constexpr absl::Duration kStallLimit = absl::Milliseconds(40);

struct RandomClient {
  std::shared_ptr<Client> seen;
  NewSequence request;  // stream is empty
  absl::Time arrival;
  bool cancelled = false;
  bool reads = true;
  bool judged = false;
};

class World {
 public:
  World(uint64_t seed, bool ahead) : random_(seed) {
    worker::FakeRunnerOptions runner;
    runner.vocab_size = kVocab;
    runner.page_tokens = 1 << Pick(0, 3);
    runner.num_pages = Pick(2, 24);
    runner.max_model_len = Pick(4, 40);
    runner.max_rows = Pick(1, 12);
    runner.host_slots = Chance(50) ? Pick(1, 12) : 0;
    runner.damaged = [this](int32_t) { return Chance(15); };
    runner.before_step = [this](const worker::StepBatch& batch) {
      EXPECT_LE(batch.num_rows(), limits_.max_num_batched_tokens);
      EXPECT_LE(batch.sequences.size(), static_cast<size_t>(limits_.max_num_seqs));
      if (clock_runs_) harness_->clock.Advance(absl::Microseconds(Pick(0, 500)));
      return fail_next_ ? absl::InternalError("scripted") : absl::OkStatus();
    };
    if (Chance(60)) {  // text that repeats itself most of the time
      const int period = Pick(1, 9), noise = Pick(2, 40);
      runner.next_token = [period, noise](uint64_t hash, int32_t length) {
        const uint64_t other = hash % static_cast<uint64_t>(noise) == 0 ? hash >> 32 : 0;
        return static_cast<int32_t>((static_cast<uint64_t>(length % period * 5) + other) % kVocab);
      };
    }
    clock_runs_ = Chance(50);
    context_tokens_ = std::min(static_cast<size_t>(runner.max_model_len),
                               static_cast<size_t>(runner.num_pages) * static_cast<size_t>(runner.page_tokens));
    limits_.max_num_batched_tokens = Pick(1, runner.max_rows);
    limits_.max_num_seqs = Pick(1, limits_.max_num_batched_tokens);
    limits_.end_of_generation = {3, 17};
    limits_.max_unread_bytes = kMaxUnreadBytes;
    limits_.reader_stall_limit = kStallLimit;
    limits_.enable_prefix_caching = Chance(85);
    limits_.host_restore = Chance(70) ? worker::HostRestore::kAlways : worker::HostRestore::kWhenFaster;
    limits_.num_scheduler_steps = Chance(50) ? 1 : Pick(2, 6);
    limits_.promise = std::array{worker::AdmissionPromise::kPredictedOutput, worker::AdmissionPromise::kWorstCase,
                                 worker::AdmissionPromise::kTokens}[static_cast<size_t>(Pick(0, 2))];
    limits_.num_speculative_tokens = Chance(30) ? 0 : Pick(1, 7);
    limits_.drafting = Chance(70) ? worker::Drafting::kAlways : worker::Drafting::kWhenWorthIt;
    if (Chance(30)) limits_.inter_token_target = absl::Microseconds(Pick(1, 2000));
    for (std::vector<int32_t>& p : prefixes_) p = Tokens(0, static_cast<int>(context_tokens_));
    if (context_tokens_ >= 2) harness_.emplace(ahead ? Ahead(runner, seed) : runner, limits_);
  }

  // False when the random sizes hold no sequence at all.
  bool possible() const { return harness_.has_value(); }

  void Operation() {
    const int what = Pick(0, 99);
    if (what < 22) {
      Submit();
    } else if (what < 27 && !clients_.empty()) {
      RandomClient& c = Any();
      c.seen->stream->Cancel();
      c.cancelled = true;
    } else if (what < 31) {
      harness_->clock.Advance(absl::Milliseconds(Pick(1, 30)));
    } else if (what < 32) {
      harness_->core->Flush();
      EXPECT_EQ(harness_->core->CheckInvariants(), "");
    } else if (what < 34 && !clients_.empty()) {
      Any().reads = false;
    } else if (what < 38) {
      for (RandomClient& c : clients_) c.reads = true;
    } else {
      Step();
    }
  }

  // The device fails in the next step that runs anything.
  void LoseDevice() {
    fail_next_ = true;
    lost_ = true;
    Finish();
  }

  void Finish() {
    for (RandomClient& c : clients_) c.reads = true;
    for (int i = 0; i < 100000 && !harness_->core->idle(); ++i) Step();
    Step();  // reads what a slow reader left lying
    EXPECT_TRUE(harness_->core->idle()) << "a feasible sequence does not end";
    EXPECT_EQ(harness_->held_pages(), 0);
    EXPECT_EQ(harness_->core->stats().waiting, 0);
    EXPECT_EQ(harness_->core->CheckIdle(), "");
    EXPECT_EQ(harness_->core->stats().invariant_failures, 0u);
    for (const RandomClient& c : clients_) EXPECT_TRUE(c.judged);
  }

  worker::EngineStats stats() const { return harness_->core->stats(); }
  size_t ended(FinishCause cause) const { return ended_[static_cast<size_t>(cause)]; }

 private:
  int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool Chance(int percent) { return Pick(1, 100) <= percent; }
  float Fraction() { return static_cast<float>(Pick(1, 100)) / 100.0f; }
  RandomClient& Any() { return clients_[static_cast<size_t>(Pick(0, static_cast<int>(clients_.size()) - 1))]; }
  std::vector<int32_t> Tokens(int low, int high) {
    std::vector<int32_t> out(static_cast<size_t>(Pick(low, high)));
    for (int32_t& t : out) t = Pick(0, kVocab - 1);
    return out;
  }

  NewSequence RandomRequest() {
    NewSequence r;
    r.prompt = prefixes_[static_cast<size_t>(Pick(0, 2))];
    r.prompt.resize(std::min(r.prompt.size(), static_cast<size_t>(Pick(0, 40))));
    for (const int32_t t : Tokens(1, 1 + Pick(0, 1) * static_cast<int>(context_tokens_))) r.prompt.push_back(t);
    r.prompt.resize(std::min(r.prompt.size(), context_tokens_ - 1));
    r.cache_namespace = Chance(70) ? "" : "other";
    r.tenant = std::array{"", "a", "b"}[static_cast<size_t>(Pick(0, 2))];
    r.priority = Chance(70) ? 0 : Pick(-1, 1);
    worker::SamplingSpec& s = r.sampling;
    s.temperature = Chance(50) ? 0.0f : 2.0f * Fraction();
    s.seed = static_cast<uint64_t>(Pick(0, 1 << 30));
    if (Chance(20)) s.top_k = Pick(0, kVocab);
    if (Chance(20)) s.top_p = Fraction();
    if (Chance(20)) s.min_p = Fraction();
    if (Chance(10)) s.typical_p = Fraction();
    if (Chance(30)) s.repetition_penalty = 0.5f + 2.0f * Fraction();
    if (Chance(30)) s.frequency_penalty = 4.0f * Fraction() - 2.0f;
    if (Chance(20)) s.presence_penalty = 4.0f * Fraction() - 2.0f;
    if (Chance(40)) s.penalty_last_n = Pick(-1, 20);
    if (Chance(20)) s.logit_bias = {{Pick(0, 15), 9.0f * Fraction()}, {Pick(16, kVocab - 1), -9.0f * Fraction()}};
    if (Chance(15)) s.allowed_tokens = Tokens(1, 9);
    if (Chance(15)) s.banned_tokens = Tokens(1, 9);
    r.max_tokens = Chance(10) ? 0 : Pick(1, 50);
    r.min_tokens = Chance(30) ? Pick(0, std::min(r.max_tokens, 12)) : 0;
    if (Chance(40)) r.stop_tokens = Tokens(1, 3);
    r.ignore_eos = Chance(50);
    if (Chance(20)) r.num_logprobs = Pick(0, 5);
    if (Chance(20)) r.num_prompt_logprobs = Pick(0, 3);
    if (Chance(15)) r.deadline = harness_->clock.Now() + absl::Milliseconds(Pick(0, 80));
    if (Chance(15)) r.max_time = absl::Milliseconds(Pick(0, 80));
    if (Chance(30)) r.max_draft_tokens = Pick(0, 3);
    r.cache_read = Chance(80);
    r.cache_write = Chance(80);
    return r;
  }

  void Submit() {
    RandomClient c;
    c.request = RandomRequest();
    c.arrival = harness_->clock.Now();
    submitted_tokens_ += c.request.prompt.size();
    c.seen = harness_->Submit(c.request);
    clients_.push_back(std::move(c));
  }

  void Step() {
    const absl::Time now = harness_->clock.Now();
    std::vector<bool> due;
    for (const RandomClient& c : clients_) {
      due.push_back(c.cancelled || now >= c.request.deadline || now - c.arrival >= c.request.max_time);
    }
    harness_->StepUnread();
    for (size_t i = 0; i < clients_.size(); ++i) {
      RandomClient& c = clients_[i];
      if (c.reads || due[i]) c.seen->Read();
      EXPECT_TRUE(c.seen->end.has_value() || !due[i]) << "not ended by the step that followed its reason";
      if (c.seen->end.has_value() && !c.judged) Judge(c, now);
    }
    std::erase_if(clients_, [](const RandomClient& c) { return c.judged; });
    std::erase_if(harness_->clients, [](const std::shared_ptr<Client>& c) { return c->end.has_value(); });
  }

  static void ExpectSame(const worker::TokenLogprob& got, const kernels::SampleResult& want) {
    EXPECT_EQ(got.logprob, want.logprob);
    EXPECT_EQ(got.rank, want.rank);
    EXPECT_EQ(got.top_ids, want.top_ids);
    EXPECT_EQ(got.top_logprobs, want.top_logprobs);
  }

  void Judge(RandomClient& c, absl::Time now) {
    c.judged = true;
    const Client& got = *c.seen;
    const worker::SequenceEnd& end = *got.end;
    ++ended_[static_cast<size_t>(end.cause)];
    const NaiveGeneration want = GenerateAlone(c.request, limits_.end_of_generation, context_tokens_, harness_->runner);
    ASSERT_LE(got.tokens.size(), want.tokens.size());
    EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), want.tokens.begin()));
    EXPECT_EQ(got.logprobs.size(), c.request.num_logprobs >= 0 ? got.tokens.size() : 0);
    for (size_t i = 0; i < got.logprobs.size(); ++i) ExpectSame(got.logprobs[i], want.logprobs[i]);
    ASSERT_LE(got.prompt_logprobs.size(), want.prompt_logprobs.size());
    for (size_t i = 0; i < got.prompt_logprobs.size(); ++i) ExpectSame(got.prompt_logprobs[i], want.prompt_logprobs[i]);
    EXPECT_EQ(end.completion_tokens, got.tokens.size());
    EXPECT_EQ(end.prompt_tokens, c.request.prompt.size());
    EXPECT_LT(end.cached_prompt_tokens, end.prompt_tokens);
    const bool reads = c.request.cache_read && limits_.enable_prefix_caching;
    EXPECT_TRUE(reads || end.cached_prompt_tokens == 0) << end.cached_prompt_tokens;
    EXPECT_LE(end.timing.preemptions, 2u);
    EXPECT_LE(end.timing.accepted_draft_tokens, end.timing.draft_tokens);
    EXPECT_LE(end.timing.accepted_draft_tokens, end.completion_tokens);
    const bool drafts = c.request.max_draft_tokens > 0 && limits_.num_speculative_tokens > 0;
    EXPECT_TRUE(drafts || end.timing.draft_tokens == 0) << end.timing.draft_tokens;
    switch (end.cause) {
      case FinishCause::kCancelled:
        EXPECT_TRUE(c.cancelled);
        EXPECT_EQ(end.status.code(), absl::StatusCode::kCancelled);
        return;
      case FinishCause::kMaxTime:
        EXPECT_GE(now - c.arrival, c.request.max_time);
        EXPECT_TRUE(end.status.ok());
        return;
      case FinishCause::kError:
        if (end.status.code() == absl::StatusCode::kDeadlineExceeded) {
          EXPECT_GE(now, c.request.deadline);
        } else if (end.status.code() == absl::StatusCode::kResourceExhausted) {
          EXPECT_GE(now - c.arrival, kStallLimit);
        } else {
          EXPECT_EQ(end.status.code(), absl::StatusCode::kUnavailable);
          EXPECT_TRUE(lost_);
        }
        return;
      default:
        EXPECT_TRUE(end.status.ok());
        EXPECT_EQ(end.cause, want.cause);
        EXPECT_EQ(end.stop_token, want.stop_token);
        EXPECT_EQ(got.tokens, want.tokens);
        EXPECT_EQ(got.prompt_logprobs.size(), want.prompt_logprobs.size());
    }
  }

  std::mt19937_64 random_;
  worker::EngineOptions limits_;
  size_t context_tokens_ = 0;
  size_t submitted_tokens_ = 0;
  std::array<std::vector<int32_t>, 3> prefixes_;
  bool clock_runs_ = false;
  bool fail_next_ = false;
  bool lost_ = false;
  std::optional<CoreHarness> harness_;
  std::vector<RandomClient> clients_;
  size_t ended_[7] = {};
};

unsigned long long All(uint64_t n) { return n; }

class EngineRandom : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Runner, EngineRandom, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "ahead" : "synchronous"; });

TEST_P(EngineRandom, EveryClientIsToldWhatItsRequestGivesAloneAndEveryPageComesBack) {
  const bool ahead = GetParam();
  constexpr int kWorlds = 250, kOperations = 500;
  size_t ended[7] = {};
  worker::EngineStats all;
  for (uint64_t seed = 0; seed < kWorlds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed, ahead);
    if (!world.possible()) continue;
    for (int i = 0; i < kOperations && !HasFailure(); ++i) world.Operation();
    if (seed % 4 == 0) {
      world.LoseDevice();
    } else {
      world.Finish();
    }
    for (size_t cause = 0; cause < 7; ++cause) ended[cause] += world.ended(static_cast<FinishCause>(cause));
    ASSERT_FALSE(HasFailure());
    const worker::EngineStats s = world.stats();
    all.steps += s.steps;
    all.plans += s.plans;
    all.steps_ahead += s.steps_ahead;
    all.void_rows += s.void_rows;
    all.drafts += s.drafts;
    all.draft_tokens += s.draft_tokens;
    all.accepted_draft_tokens += s.accepted_draft_tokens;
    all.preemptions += s.preemptions;
    all.recomputed_tokens += s.recomputed_tokens;
    all.prefix_hit_tokens += s.prefix_hit_tokens;
    all.dedup_pages += s.dedup_pages;
    all.copied_pages += s.copied_pages;
    all.evictions += s.evictions;
    all.host_tier_hit_tokens += s.host_tier_hit_tokens;
    all.host_tier_failures += s.host_tier_failures;
  }
  std::printf(
      "%llu steps, %llu plans, %llu preemptions, %llu tokens recomputed, %llu hit, %llu from the host (%llu "
      "damaged pages), %llu pages evicted, %llu deduplicated, %llu copied; %llu drafts of %llu tokens, %llu accepted; "
      "%llu steps ahead, %llu void rows\n",
      All(all.steps), All(all.plans), All(all.preemptions), All(all.recomputed_tokens), All(all.prefix_hit_tokens),
      All(all.host_tier_hit_tokens), All(all.host_tier_failures), All(all.evictions), All(all.dedup_pages),
      All(all.copied_pages), All(all.drafts), All(all.draft_tokens), All(all.accepted_draft_tokens),
      All(all.steps_ahead), All(all.void_rows));
  // A sequence that could be drafted for is drafted for in fewer steps when it has run ahead before.
  EXPECT_GT(all.accepted_draft_tokens, ahead ? 300u : 500u);
  EXPECT_GT(all.draft_tokens - all.accepted_draft_tokens, ahead ? 150u : 400u);
  EXPECT_EQ(all.plans < all.steps, !ahead) << "who runs ahead plans every step";
  EXPECT_EQ(all.steps_ahead > 20000, ahead);
  EXPECT_EQ(all.void_rows > 2000, ahead);
  EXPECT_GT(all.preemptions, 200u);
  EXPECT_GT(all.recomputed_tokens, 500u);
  EXPECT_GT(all.prefix_hit_tokens, 5000u);
  EXPECT_GT(all.dedup_pages, 500u);
  EXPECT_GT(all.copied_pages, 500u);
  EXPECT_GT(all.host_tier_hit_tokens, 500u);
  EXPECT_GT(all.host_tier_failures, 50u);
  // A run that never meets a way of ending proves nothing about it.
  for (size_t cause = 0; cause < 7; ++cause) EXPECT_GT(ended[cause], 5u) << "cause " << cause;
}

}  // namespace
}  // namespace dunlin::testing
