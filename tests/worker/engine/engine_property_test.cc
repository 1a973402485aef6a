// Random clients against an EngineCore, with a runner that runs ahead and one that does not: submits, cancels,
// deadlines, clock jumps, slow readers, a device that gets lost. After every operation the engine's invariants hold;
// every stream is a prefix of what its sequence generates alone; in the end nothing is held. The fake runner checks
// every slot that attention reads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using worker::FinishCause;

class RandomClients {
 public:
  RandomClients(uint64_t seed, bool ahead) : random_(seed), loses_device_(seed % 5 == 0) {
    worker::FakeRunnerOptions o;
    o.page_tokens = 1 << Below(3);
    o.max_model_len = 24 + Below(20);
    o.num_pages = (o.max_model_len + o.page_tokens - 1) / o.page_tokens + Below(30);
    o.max_rows = 4 + Below(12);
    o.before_step = [this](const worker::StepBatch&) {
      return lose_now_ ? absl::UnavailableError("lost") : absl::OkStatus();
    };
    worker::EngineOptions e;
    e.max_num_seqs = 1 + Below(o.max_rows);
    e.max_unread_bytes = 24;
    e.reader_stall_limit = absl::Milliseconds(40);
    e.end_of_generation = {11, 60};
    h_ = std::make_unique<CoreHarness>(ahead ? Ahead(o, seed) : o, e);
    max_model_len_ = o.max_model_len;
  }

  // One random operation; false when a check failed.
  void RunOne() {
    switch (Below(12)) {
      case 0:
      case 1:
        if (open_.size() < 24) Submit();
        break;
      case 2:
        if (!open_.empty()) Any().client->stream->Cancel();
        break;
      case 3:
        if (Below(6) == 0) h_->clock.Advance(absl::Milliseconds(Below(60)));
        break;
      case 4:
        if (!open_.empty()) Any().reads = Below(3) != 0;
        break;
      case 5:
        lose_now_ = loses_device_ && Below(400) == 0;
        break;
      default:
        h_->StepUnread();
        ++steps;
    }
    ReadAndCompare();
  }

  void Finish() {
    for (Open& o : open_) o.reads = true;
    for (int i = 0; i < 2000 && !(open_.empty() && h_->core->idle()); ++i) {
      h_->StepUnread();
      h_->clock.Advance(absl::Milliseconds(1));
      ReadAndCompare();
    }
    EXPECT_TRUE(open_.empty()) << open_.size() << " sequences never ended";
    EXPECT_TRUE(h_->core->idle());
    const worker::EngineStats s = h_->core->stats();
    EXPECT_EQ(s.held_pages, 0);
    EXPECT_EQ(s.blank_pages + s.cached_pages + s.quarantine_pages, s.total_pages);
    EXPECT_EQ(h_->core->CheckIdle(), "");
    EXPECT_EQ(h_->core->num_left_queue(), submitted);
    ahead_steps += s.steps_ahead;
    void_rows += s.void_rows;
  }

  uint64_t submitted = 0, steps = 0, tokens = 0, ahead_steps = 0, void_rows = 0;
  std::vector<int> ends = std::vector<int>(7, 0);  // by FinishCause

 private:
  struct Open {
    std::shared_ptr<Client> client;
    std::vector<int32_t> expected;  // what it generates undisturbed, up to its own end
    FinishCause natural_end = FinishCause::kLength;
    bool reads = true;
  };

  int Below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  Open& Any() { return open_[static_cast<size_t>(Below(static_cast<int>(open_.size())))]; }

  void Submit() {
    worker::NewSequence s = Greedy(Prompt(1 + Below(max_model_len_ - 1), Below(50)), 1 + Below(30));
    if (Below(4) == 0) s.stop_tokens = {Below(97)};
    if (Below(4) == 0) s.ignore_eos = true;
    if (Below(6) == 0) s.num_prompt_logprobs = Below(3);
    if (Below(8) == 0) s.deadline = h_->clock.Now() + absl::Milliseconds(Below(100));
    if (Below(8) == 0) s.max_time = absl::Milliseconds(Below(100));
    if (Below(3) == 0) s.cache_write = false;
    Open o;
    const int room = max_model_len_ - static_cast<int>(s.prompt.size());
    o.natural_end = s.max_tokens > room ? FinishCause::kContextFull : FinishCause::kLength;
    for (const int32_t t : h_->runner.Greedy(s.prompt, std::min(room, s.max_tokens))) {
      o.expected.push_back(t);
      const bool eos = !s.ignore_eos && (t == 11 || t == 60);
      if (eos || std::count(s.stop_tokens.begin(), s.stop_tokens.end(), t) > 0) {
        o.natural_end = eos ? FinishCause::kEos : FinishCause::kStopToken;
        break;
      }
    }
    o.reads = Below(4) != 0;
    o.client = h_->Submit(std::move(s));
    h_->clients.clear();  // read here
    ++submitted;
    open_.push_back(std::move(o));
  }

  void ReadAndCompare() {
    std::erase_if(open_, [this](const Open& o) {
      Client& c = *o.client;
      if (o.reads) c.Read();
      EXPECT_LE(c.tokens.size(), o.expected.size());
      EXPECT_TRUE(std::equal(c.tokens.begin(), c.tokens.end(), o.expected.begin())) << "another sequence's tokens";
      if (!c.end.has_value()) return false;
      tokens += c.tokens.size();
      ++ends[static_cast<size_t>(c.end->cause)];
      EXPECT_EQ(c.end->completion_tokens, c.tokens.size());
      const bool natural = c.end->cause != FinishCause::kError && c.end->cause != FinishCause::kCancelled &&
                           c.end->cause != FinishCause::kMaxTime;
      EXPECT_EQ(c.end->status.ok(), natural || c.end->cause == FinishCause::kMaxTime);
      if (natural) {
        EXPECT_EQ(c.tokens.size(), o.expected.size());
        EXPECT_EQ(c.end->cause, o.natural_end);
      }
      return true;
    });
  }

  std::mt19937_64 random_;
  const bool loses_device_;
  bool lose_now_ = false;
  int max_model_len_ = 0;
  std::unique_ptr<CoreHarness> h_;
  std::vector<Open> open_;
};

class EngineProperty : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Runner, EngineProperty, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "ahead" : "synchronous"; });

TEST_P(EngineProperty, HoldsOver60000RandomOperations) {
  const bool ahead = GetParam();
  uint64_t submitted = 0, steps = 0, tokens = 0, ahead_steps = 0, void_rows = 0;
  std::vector<int> ends(7, 0);
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    RandomClients clients(seed, ahead);
    for (int op = 0; op < 1000; ++op) {
      clients.RunOne();
      ASSERT_FALSE(HasFailure()) << "after operation " << op;
    }
    clients.Finish();
    ASSERT_FALSE(HasFailure());
    submitted += clients.submitted;
    steps += clients.steps;
    tokens += clients.tokens;
    ahead_steps += clients.ahead_steps;
    void_rows += clients.void_rows;
    for (size_t i = 0; i < ends.size(); ++i) ends[i] += clients.ends[i];
  }
  // The operations met what they are meant to meet.
  for (size_t i = 0; i < ends.size(); ++i) EXPECT_GT(ends[i], 20) << "sequences that ended for cause " << i;
  EXPECT_EQ(ahead_steps > steps / 2, ahead);
  EXPECT_EQ(void_rows > 500, ahead);
  RecordProperty("submitted", std::to_string(submitted));
  RecordProperty("steps", std::to_string(steps));
  RecordProperty("tokens", std::to_string(tokens));
  std::printf("%llu sequences, %llu steps, %llu ahead, %llu tokens, %llu void rows\n",
              static_cast<unsigned long long>(submitted), static_cast<unsigned long long>(steps),
              static_cast<unsigned long long>(ahead_steps), static_cast<unsigned long long>(tokens),
              static_cast<unsigned long long>(void_rows));
}

}  // namespace
}  // namespace dunlin::testing
