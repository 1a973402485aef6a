// The thread shell: what may happen at the same time as a step. Run it under Thread Sanitizer too.
#include "worker/engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/engine/core_harness.h"
#include "worker/runners/fake_runner.h"

namespace dunlin::testing {
namespace {

using worker::Engine;
using worker::EngineOptions;
using worker::FakeRunner;
using worker::FakeRunnerOptions;
using worker::NewSequence;
using worker::SequenceEnd;
using worker::StreamUpdate;
using worker::TokenStream;

// Reads a stream from its notifications, as a reactor would, and lets a test wait for its end.
class Reader {
 public:
  Reader() {
    // The bell is shared: its last ring may still be under way when this reader has seen the end and is gone.
    stream_->SetNotify([bell = bell_] { bell->Ring(); });
  }
  const std::shared_ptr<TokenStream>& stream() { return stream_; }

  // Blocks until `tokens` tokens or the end have come.
  void WaitFor(size_t tokens) {
    StreamUpdate update;
    while (tokens_.size() < tokens && !end_.has_value()) {
      bell_->Wait();
      if (!stream_->Take(&update)) continue;
      tokens_.insert(tokens_.end(), update.tokens.begin(), update.tokens.end());
      end_ = std::move(update.end);
    }
  }
  const SequenceEnd& WaitForEnd() {
    WaitFor(static_cast<size_t>(-1));
    return *end_;
  }
  const std::vector<int32_t>& tokens() const { return tokens_; }

 private:
  class Bell {
   public:
    void Ring() {
      MutexLock lock(&mu_);
      rung_ = true;
      changed_.SignalAll();
    }
    void Wait() {
      MutexLock lock(&mu_);
      while (!rung_) changed_.Wait(&mu_);
      rung_ = false;
    }

   private:
    Mutex mu_;
    CondVar changed_;
    bool rung_ ABSL_GUARDED_BY(mu_) = false;
  };

  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  std::shared_ptr<TokenStream> stream_ = std::make_shared<TokenStream>();
  std::vector<int32_t> tokens_;
  std::optional<SequenceEnd> end_;
};

NewSequence For(Reader* reader, NewSequence s) {
  s.stream = reader->stream();
  return s;
}

std::unique_ptr<Engine> MustCreate(const EngineOptions& options, FakeRunner* runner,
                                   const Clock* clock = Clock::Real()) {
  auto engine = Engine::Create(options, runner, clock, nullptr);
  CHECK(engine.ok()) << engine.status().ToString();
  return *std::move(engine);
}

// Holds every step until let go, so that a test decides what a step meets.
struct Gate {
  Mutex mu;
  CondVar changed;
  bool open ABSL_GUARDED_BY(mu) = false;
  int arrived ABSL_GUARDED_BY(mu) = 0;

  absl::Status Pass() {
    MutexLock lock(&mu);
    ++arrived;
    changed.SignalAll();
    while (!open) changed.Wait(&mu);
    return absl::OkStatus();
  }
  void WaitForStep() {
    MutexLock lock(&mu);
    while (arrived == 0) changed.Wait(&mu);
  }
  void Open() {
    MutexLock lock(&mu);
    open = true;
    changed.SignalAll();
  }
};

TEST(Engine, StreamsWhatTheModelSays) {
  FakeRunner runner({});
  auto engine = MustCreate({}, &runner);
  Reader reader;
  ASSERT_OK(engine->Submit(For(&reader, Greedy(Prompt(9, 1), 25))));
  EXPECT_OK(reader.WaitForEnd().status);
  EXPECT_EQ(reader.tokens(), runner.Greedy(Prompt(9, 1), 25));
  EXPECT_EQ(engine->Snapshot().held_pages, 0) << "whoever sees the end sees the pages free";
  EXPECT_EQ(engine->Snapshot().running, 0);
  EXPECT_EQ(engine->FlushCache(), 2) << "33 tokens were computed: two full pages of 16";
  EXPECT_EQ(engine->FlushCache(), 0);
}

TEST(Engine, RefusesWhatCannotBeServedAtOnce) {
  FakeRunner runner({});
  auto engine = MustCreate({}, &runner);
  Reader reader;
  EXPECT_THAT(engine->Submit(For(&reader, Greedy(Prompt(5000, 1), 25))),
              StatusIs(absl::StatusCode::kOutOfRange, ::testing::HasSubstr("5000")));
}

TEST(Engine, AFullQueueRefusesAndSaysItsSize) {
  Gate gate;
  FakeRunnerOptions o;
  o.before_step = [&gate](const worker::StepBatch&) { return gate.Pass(); };
  FakeRunner runner(o);
  EngineOptions options;
  options.max_num_seqs = 1;
  options.inbox_capacity = 2;
  auto engine = MustCreate(options, &runner);
  std::vector<std::unique_ptr<Reader>> readers;
  const auto submit = [&] {
    readers.push_back(std::make_unique<Reader>());
    return engine->Submit(For(readers.back().get(), Greedy(Prompt(4, 1), 3)));
  };
  ASSERT_OK(submit());
  gate.WaitForStep();  // it runs; the next two wait
  ASSERT_OK(submit());
  ASSERT_OK(submit());
  EXPECT_EQ(engine->Snapshot().waiting, 2);
  EXPECT_EQ(engine->Snapshot().running, 1) << "the picture shows the step under way";
  EXPECT_THAT(submit(), StatusIs(absl::StatusCode::kResourceExhausted, ::testing::HasSubstr("2")));
  readers.pop_back();
  gate.Open();
  for (auto& r : readers) EXPECT_OK(r->WaitForEnd().status);
  EXPECT_EQ(engine->Snapshot().waiting, 0);
  ASSERT_OK(submit());
  EXPECT_OK(readers.back()->WaitForEnd().status);
}

TEST(Engine, AfterStopAdmissionOpenSequencesGoOnAndNewOnesAreRefused) {
  Gate gate;
  FakeRunnerOptions o;
  o.before_step = [&gate](const worker::StepBatch&) { return gate.Pass(); };
  FakeRunner runner(o);
  auto engine = MustCreate({}, &runner);
  Reader open, late;
  ASSERT_OK(engine->Submit(For(&open, Greedy(Prompt(4, 1), 30))));
  engine->StopAdmission();
  EXPECT_THAT(engine->Submit(For(&late, Greedy(Prompt(4, 1), 3))),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::_));
  gate.Open();
  EXPECT_OK(open.WaitForEnd().status);
  EXPECT_EQ(open.tokens().size(), 30u);
}

TEST(Engine, DestructionFailsOpenSequencesWithUnavailable) {
  Gate gate;
  FakeRunnerOptions o;
  o.max_model_len = 4096;
  o.num_pages = 256;
  o.before_step = [&gate](const worker::StepBatch&) { return gate.Pass(); };
  FakeRunner runner(o);
  EngineOptions options;
  options.max_num_seqs = 1;
  auto engine = MustCreate(options, &runner);
  Reader runs, waits;
  ASSERT_OK(engine->Submit(For(&runs, Greedy(Prompt(4, 1), 4000))));
  ASSERT_OK(engine->Submit(For(&waits, Greedy(Prompt(4, 2), 4000))));
  gate.WaitForStep();
  std::thread destroyer([&] { engine.reset(); });
  gate.Open();
  destroyer.join();
  for (Reader* r : {&runs, &waits}) {
    EXPECT_THAT(r->WaitForEnd().status,
                StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr("shutting down")));
  }
}

TEST(Engine, AnIdleEngineWakesForACancelOfAPausedSequenceAndForItsStall) {
  FakeClock clock;
  FakeRunner runner({});
  EngineOptions options;
  options.max_unread_bytes = 8;
  auto engine = MustCreate(options, &runner, &clock);
  Reader cancelled, stalled;
  ASSERT_OK(engine->Submit(For(&cancelled, Greedy(Prompt(4, 1), 50))));
  ASSERT_OK(engine->Submit(For(&stalled, Greedy(Prompt(4, 2), 50))));
  while (cancelled.stream()->unread_bytes() <= 8 || stalled.stream()->unread_bytes() <= 8) std::this_thread::yield();
  cancelled.stream()->Cancel(clock.Now());
  engine->Wake();
  EXPECT_THAT(cancelled.WaitForEnd().status, StatusIs(absl::StatusCode::kCancelled, ::testing::_));
  // The engine may not have noticed the pause yet when the clock moves: it moves until it has.
  while (engine->Snapshot().running > 0) {
    clock.Advance(options.reader_stall_limit);
    engine->Wake();
    std::this_thread::yield();
  }
  EXPECT_THAT(stalled.WaitForEnd().status, StatusIs(absl::StatusCode::kResourceExhausted, ::testing::_));
  EXPECT_EQ(engine->Snapshot().held_pages, 0);
}

class EngineThreads : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Runner, EngineThreads, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "ahead" : "synchronous"; });

TEST_P(EngineThreads, ClientsGetTheirOwnTokens) {
  FakeRunnerOptions o;
  o.page_tokens = 4;
  o.num_pages = 90;
  o.max_model_len = 80;
  o.max_rows = 32;
  FakeRunner runner(GetParam() ? Ahead(o) : o);
  EngineOptions options;
  options.max_num_seqs = 12;
  options.inbox_capacity = 8;
  auto engine = MustCreate(options, &runner);
  std::atomic<int> served{0}, cancelled{0}, refused{0};
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done.load()) {
      const worker::EngineStats s = engine->Snapshot();
      ASSERT_EQ(s.blank_pages + s.held_pages + s.cached_pages + s.quarantine_pages, s.total_pages);
      engine->FlushCache();
    }
  });
  std::vector<std::thread> clients;
  for (int t = 0; t < 6; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) {
        Reader reader;
        const std::vector<int32_t> prompt = Prompt(1 + (t * 13 + i) % 40, t * 100 + i);
        const int n = 1 + (i * 7 + t) % 38;
        const absl::Status status = engine->Submit(For(&reader, Greedy(prompt, n)));
        if (!status.ok()) {
          ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
          ++refused;
          continue;
        }
        if (i % 3 == 0) {
          reader.WaitFor(static_cast<size_t>(i % 5));
          reader.stream()->Cancel(Clock::Real()->Now());
          engine->Wake();
        }
        const bool ok = reader.WaitForEnd().status.ok();
        const std::vector<int32_t> expected = runner.Greedy(prompt, n);
        ASSERT_LE(reader.tokens().size(), expected.size());
        ASSERT_TRUE(std::equal(reader.tokens().begin(), reader.tokens().end(), expected.begin()));
        ASSERT_TRUE(!ok || reader.tokens().size() == expected.size());
        ++(ok ? served : cancelled);
      }
    });
  }
  for (std::thread& c : clients) c.join();
  done = true;
  watcher.join();
  EXPECT_EQ(served + cancelled + refused, 360);
  EXPECT_GT(served, 0);
  EXPECT_EQ(engine->Snapshot().held_pages, 0);
}

TEST(Engine, AnArrivalDoesNotWaitForTheEndOfARunOfDecodeSteps) {
  Gate gate;
  FakeRunnerOptions o;
  o.max_model_len = 4096;
  o.num_pages = 512;
  std::atomic<int> steps{0}, joined_in{0};
  o.before_step = [&](const worker::StepBatch& batch) {
    ++steps;
    if (batch.sequences.size() == 2 && joined_in == 0) joined_in = steps.load();
    return gate.Pass();
  };
  FakeRunner runner(o);
  EngineOptions options;
  options.num_scheduler_steps = 1 << 30;
  auto engine = MustCreate(options, &runner);
  Reader endless, brief;
  ASSERT_OK(engine->Submit(For(&endless, Greedy(Prompt(4, 1), 3900))));
  gate.WaitForStep();
  ASSERT_OK(engine->Submit(For(&brief, Greedy(Prompt(4, 2), 5))));
  gate.Open();
  EXPECT_OK(brief.WaitForEnd().status);
  EXPECT_EQ(brief.tokens(), runner.Greedy(Prompt(4, 2), 5));
  endless.stream()->Cancel(Clock::Real()->Now());
  engine->Wake();
  endless.WaitForEnd();
  EXPECT_EQ(joined_in, 2) << "it came during the first step";
}

TEST(Engine, StreamsMayBeCancelledAndDroppedWhileTheEngineIsDestroyed) {
  for (int round = 0; round < 30; ++round) {
    FakeRunner runner({});
    auto engine = MustCreate({}, &runner);
    std::vector<std::shared_ptr<TokenStream>> streams;
    for (int i = 0; i < 8; ++i) {
      NewSequence s = Greedy(Prompt(5 + i, round), 100);
      s.stream = std::make_shared<TokenStream>();
      streams.push_back(s.stream);
      ASSERT_OK(engine->Submit(std::move(s)));
    }
    std::thread canceller([mine = std::move(streams)]() mutable {
      for (auto& s : mine) {
        s->Cancel();
        StreamUpdate update;
        s->Take(&update);
        s.reset();
      }
    });
    engine.reset();
    canceller.join();
  }
}

TEST(TokenStream, NotifiesOncePerTake) {
  TokenStream stream;
  int told = 0;
  stream.SetNotify([&told] { ++told; });
  StreamUpdate update;
  EXPECT_FALSE(stream.Take(&update));
  stream.PushScheduled(3);
  stream.PushProgress(8);
  stream.PushToken(4, nullptr);
  EXPECT_EQ(told, 1);
  EXPECT_EQ(stream.unread_bytes(), 4u);
  ASSERT_TRUE(stream.Take(&update));
  EXPECT_TRUE(update.scheduled);
  EXPECT_EQ(update.cached_prompt_tokens, 3u);
  EXPECT_EQ(update.prefill_done_tokens, 8u);
  EXPECT_EQ(update.tokens, std::vector<int32_t>{4});
  EXPECT_EQ(stream.unread_bytes(), 0u);
  const worker::TokenLogprob logprob{-1.0f, 2, {1, 2}, {-0.5f, -1.0f}};
  stream.PushToken(5, &logprob);
  stream.PushEnd({});
  EXPECT_EQ(told, 2);
  EXPECT_GT(stream.unread_bytes(), 4u);
  ASSERT_TRUE(stream.Take(&update));
  EXPECT_FALSE(update.scheduled);
  EXPECT_EQ(update.tokens, std::vector<int32_t>{5});
  ASSERT_EQ(update.logprobs.size(), 1u);
  EXPECT_EQ(update.logprobs[0].rank, 2);
  EXPECT_TRUE(update.end.has_value());
  EXPECT_FALSE(stream.Take(&update));
  EXPECT_TRUE(update.empty());
}

}  // namespace
}  // namespace dunlin::testing
