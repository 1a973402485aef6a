// Drives an EngineCore over a FakeRunner step by step on a fake clock, and reads its streams.
// Thread-safety: test thread only.
#ifndef DUNLIN_TESTS_WORKER_ENGINE_CORE_HARNESS_H_
#define DUNLIN_TESTS_WORKER_ENGINE_CORE_HARNESS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "worker/engine/engine_core.h"
#include "worker/runners/fake_runner.h"

namespace dunlin::testing {

// A client: everything its stream said so far.
struct Client {
  std::shared_ptr<worker::TokenStream> stream = std::make_shared<worker::TokenStream>();
  bool scheduled = false;
  uint32_t prefill_done_tokens = 0;
  std::vector<int32_t> tokens;
  std::vector<worker::TokenLogprob> logprobs;
  std::vector<worker::TokenLogprob> prompt_logprobs;
  std::optional<worker::SequenceEnd> end;

  void Read() {
    worker::StreamUpdate u;
    if (!stream->Take(&u)) return;
    CHECK(!end.has_value()) << "an update after the end";
    scheduled = scheduled || u.scheduled;
    if (u.prefill_done_tokens > 0) prefill_done_tokens = u.prefill_done_tokens;
    tokens.insert(tokens.end(), u.tokens.begin(), u.tokens.end());
    logprobs.insert(logprobs.end(), u.logprobs.begin(), u.logprobs.end());
    prompt_logprobs.insert(prompt_logprobs.end(), u.prompt_logprobs.begin(), u.prompt_logprobs.end());
    end = std::move(u.end);
  }
};

// A prompt of `length` tokens that depends on `salt`.
inline std::vector<int32_t> Prompt(int length, int salt, int vocab = 97) {
  std::vector<int32_t> prompt;
  for (int i = 0; i < length; ++i) prompt.push_back((salt * 31 + i * 7 + i * i) % vocab);
  return prompt;
}

inline worker::NewSequence Greedy(std::vector<int32_t> prompt, int max_tokens) {
  worker::NewSequence s;
  s.prompt = std::move(prompt);
  s.max_tokens = max_tokens;
  s.sampling.temperature = 0.0f;
  return s;
}

// The same runner, able to run a step ahead: a step is executed when it is waited for or at once, at random.
inline worker::FakeRunnerOptions Ahead(worker::FakeRunnerOptions options, uint64_t seed = 1) {
  options.max_steps_in_flight = 2;
  options.executes_at_submit = [random = std::make_shared<std::mt19937_64>(seed)] { return (*random)() % 2 == 0; };
  return options;
}

class CoreHarness {
 public:
  explicit CoreHarness(worker::FakeRunnerOptions runner_options = {}, worker::EngineOptions options = {},
                       worker::EngineObserver* observer = nullptr)
      : runner(std::move(runner_options)) {
    options.max_num_seqs = std::min(options.max_num_seqs, runner.info().max_rows);
    auto created = worker::EngineCore::Create(options, &runner, &clock, observer);
    CHECK(created.ok()) << created.status().ToString();
    core = *std::move(created);
  }

  std::shared_ptr<Client> Submit(worker::NewSequence sequence) {
    auto client = std::make_shared<Client>();
    sequence.stream = client->stream;
    const absl::Status status = core->Check(sequence);
    CHECK(status.ok()) << status.ToString();
    core->Add(std::move(sequence), clock.Now());
    clients.push_back(client);
    return client;
  }

  // One step; a millisecond passes; every client reads. False when there was nothing to run.
  bool Step() {
    const bool worked = StepUnread();
    for (auto& c : clients) c->Read();
    return worked;
  }
  bool StepUnread() {
    const bool worked = core->Step();
    EXPECT_EQ(core->CheckInvariants(), "");
    core->DeliverEnds();
    clock.Advance(absl::Milliseconds(1));
    return worked;
  }
  // Until nothing is left to do; the number of steps.
  int RunToEnd(int max_steps = 100000) {
    int steps = 0;
    while (Step()) CHECK_LT(++steps, max_steps);
    return steps;
  }
  int32_t held_pages() const { return core->stats().held_pages; }

  FakeClock clock;
  worker::FakeRunner runner;
  std::unique_ptr<worker::EngineCore> core;
  std::vector<std::shared_ptr<Client>> clients;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_ENGINE_CORE_HARNESS_H_
