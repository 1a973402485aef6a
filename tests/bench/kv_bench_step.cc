// A scheduling step of the engine while everybody decodes.
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/clock.h"
#include "tests/bench/kv_bench_cases.h"
#include "tests/bench/list_scheduler.h"
#include "tests/support/allocation_counter.h"
#include "worker/engine/engine_core.h"
#include "worker/runners/fake_runner.h"

namespace dunlin::bench {
namespace {

constexpr int kPageTokens = 16;
constexpr int kPromptTokens = 64;
constexpr int kVocab = 97;
constexpr int kWarmUp = 300;

double Microseconds(double from, double to) { return (to - from) / 1e3; }

std::vector<int32_t> Prompt(int which) {
  std::vector<int32_t> prompt(kPromptTokens);
  for (size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<int32_t>((static_cast<size_t>(which) * 31 + i * i) % kVocab);
  prompt[0] = which % kVocab;
  return prompt;
}

int32_t PagesOf(const KvBenchOptions& options) { return (kPromptTokens + options.steps + kWarmUp) / kPageTokens + 2; }

struct StepTimes {
  std::vector<double> schedule, absorb;  // microseconds per step
  double allocations = 0;                // per step
};

// The runner's part is cut out by its hooks: it is called before a step and for every token that it chooses.
class EngineSteps {
 public:
  explicit EngineSteps(const KvBenchOptions& options) : steps_(options.steps), runner_(RunnerOptions(options)) {
    worker::EngineOptions engine;
    engine.max_num_seqs = options.decoding;
    engine.max_num_batched_tokens = options.decoding * 2;
    auto core = worker::EngineCore::Create(engine, &runner_, &clock_, nullptr);
    CHECK(core.ok()) << core.status().ToString();
    core_ = *std::move(core);
    for (int i = 0; i < options.decoding; ++i) {
      worker::NewSequence s;
      s.prompt = Prompt(i);
      s.max_tokens = options.steps + kWarmUp;
      s.sampling.temperature = 0.0f;
      s.ignore_eos = true;
      streams_.push_back(std::make_shared<worker::TokenStream>());
      s.stream = streams_.back();
      CHECK(core_->Check(s).ok());
      core_->Add(std::move(s), clock_.Now());
    }
  }

  StepTimes Run() {
    // Until all are decoding, and then some steps more.
    while (core_->stats().running < static_cast<int32_t>(streams_.size())) Step(nullptr);
    for (int i = 0; i < kWarmUp / 3; ++i) Step(nullptr);
    StepTimes times;
    times.schedule.reserve(static_cast<size_t>(steps_));
    times.absorb.reserve(static_cast<size_t>(steps_));
    const uint64_t before = testing::NumAllocations();
    for (int i = 0; i < steps_; ++i) Step(&times);
    times.allocations = static_cast<double>(testing::NumAllocations() - before) / steps_;
    CHECK_EQ(core_->stats().running, static_cast<int32_t>(streams_.size()));
    core_->FailAll(absl::CancelledError("done"));
    return times;
  }

 private:
  worker::FakeRunnerOptions RunnerOptions(const KvBenchOptions& options) {
    worker::FakeRunnerOptions o;
    o.vocab_size = kVocab;
    o.page_tokens = kPageTokens;
    o.max_model_len = PagesOf(options) * kPageTokens;
    o.num_pages = PagesOf(options) * options.decoding;
    o.max_rows = options.decoding * 2;
    o.before_step = [this](const worker::StepBatch&) {
      runner_begins_ = Nanoseconds();
      return absl::OkStatus();
    };
    o.next_token = [this](uint64_t hash, int32_t) {
      runner_ends_ = Nanoseconds();
      return static_cast<int32_t>(hash % kVocab);
    };
    return o;
  }

  void Step(StepTimes* times) {
    const double start = Nanoseconds();
    CHECK(core_->Step());
    const double end = Nanoseconds();
    if (times != nullptr) {
      times->schedule.push_back(Microseconds(start, runner_begins_));
      times->absorb.push_back(Microseconds(runner_ends_, end));
    }
    core_->DeliverEnds();
    for (const auto& stream : streams_) stream->Take(&update_);
    clock_.Advance(absl::Milliseconds(1));
  }

  const int steps_;
  double runner_begins_ = 0, runner_ends_ = 0;
  FakeClock clock_;
  worker::FakeRunner runner_;
  std::unique_ptr<worker::EngineCore> core_;
  std::vector<std::shared_ptr<worker::TokenStream>> streams_;
  worker::StreamUpdate update_;
};

StepTimes RunListScheduler(const KvBenchOptions& options) {
  ListScheduler scheduler(PagesOf(options) * options.decoding, kPageTokens, options.decoding);
  for (int i = 0; i < options.decoding; ++i) scheduler.Add("request-" + std::to_string(i), Prompt(i));
  StepTimes times;
  const uint64_t before = testing::NumAllocations();
  for (int i = 0; i < options.steps; ++i) {
    const double start = Nanoseconds();
    const ListScheduler::Batch batch = scheduler.Schedule();
    const double middle = Nanoseconds();
    scheduler.Absorb(batch, i % kVocab);
    times.schedule.push_back(Microseconds(start, middle));
    times.absorb.push_back(Microseconds(middle, Nanoseconds()));
  }
  times.allocations = static_cast<double>(testing::NumAllocations() - before) / options.steps;
  return times;
}

void Add(const StepTimes& run, int runs, StepTimes* all) {
  all->schedule.insert(all->schedule.end(), run.schedule.begin(), run.schedule.end());
  all->absorb.insert(all->absorb.end(), run.absorb.begin(), run.absorb.end());
  all->allocations += run.allocations / runs;
}

}  // namespace

std::vector<KvFigure> RunStepFigures(const KvBenchOptions& options) {
  StepTimes ours, list;
  for (int r = 0; r < options.repeat; ++r) {
    Add(EngineSteps(options).Run(), options.repeat, &ours);
    Add(RunListScheduler(options), options.repeat, &list);
  }
  return {
      {"schedule a step, p50", "us", 10, Percentile(ours.schedule, 0.5), Percentile(list.schedule, 0.5)},
      {"schedule a step, p99", "us", 50, Percentile(ours.schedule, 0.99), Percentile(list.schedule, 0.99)},
      {"hand out a step's tokens, p50", "us", -1, Percentile(ours.absorb, 0.5), Percentile(list.absorb, 0.5)},
      {"allocations in a steady step", "", 0, ours.allocations, list.allocations},
  };
}

}  // namespace dunlin::bench
