// Drives a ModelRunner without an engine: sequences with their own page tables, batches of any mix of their tokens.
// Thread-safety: one thread.  Borrows: the sequences until the batch has run.
#ifndef DUNLIN_TESTS_WORKER_RUNNERS_RUNNER_HARNESS_H_
#define DUNLIN_TESTS_WORKER_RUNNERS_RUNNER_HARNESS_H_

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "model/gguf/gguf_file.h"
#include "worker/model_runner.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::testing {

// A sequence's tokens in the cache. Pages come from the pool in shuffled order, so that no test leans on their order.
struct TestSequence {
  std::vector<int32_t> pages;
  int32_t context = 0;  // tokens in the cache
};

class TestPages {
 public:
  explicit TestPages(const worker::RunnerInfo& info, uint32_t seed = 1);
  // Gives `sequence` the pages for `tokens` tokens in all.
  void Grow(TestSequence* sequence, int tokens);
  void Free(TestSequence* sequence);

 private:
  int page_tokens_;
  std::vector<int32_t> free_;
};

// Which rows of a slice give outputs.
enum class Outputs { kNone, kLast, kAll };

// One step: Add slices, then Run. Reusable.
class TestBatch {
 public:
  TestBatch(worker::ModelRunner* runner, TestPages* pages) : runner_(runner), pages_(pages) {}

  void Add(TestSequence* sequence, std::span<const int32_t> tokens, Outputs outputs,
           const kernels::SampleParams& params = Greedy());
  // The same with outputs at the given indices into `tokens`, ascending.
  void AddAt(TestSequence* sequence, std::span<const int32_t> tokens, std::span<const int32_t> output_at,
             const kernels::SampleParams& params = Greedy());
  int rows() const { return batch_.num_rows(); }
  const worker::StepResult& Run();

  static kernels::SampleParams Greedy() {
    kernels::SampleParams p;
    p.temperature = 0.0f;
    p.num_top = 0;
    return p;
  }

 private:
  worker::ModelRunner* const runner_;
  TestPages* const pages_;
  worker::StepBatch batch_;
  worker::StepResult result_;
  std::vector<TestSequence*> sequences_;
};

// Row i of the last step's logits (at most 64 outputs a step). Ops: what `runner` was made with.
template <typename Ops>
std::span<const float> LogitsRow(const worker::ModelRunner& runner, size_t i) {
  const auto* r = dynamic_cast<const worker::TransformerRunner<Ops>*>(&runner);
  CHECK(r != nullptr) << "not a runner of these ops";
  const auto vocab = static_cast<size_t>(runner.info().vocab_size);
  return r->TEST_logits().subspan(i * vocab, vocab);
}

// Options of small runs: F32 pages, no bandwidth measurement, room for `sequences` of `max_model_len`.
worker::RunnerOptions SmallOptions(int max_model_len, int sequences);

// A file with these bytes, opened; it is gone from the directory at once.
std::unique_ptr<model::GgufFile> OpenBytes(const std::string& bytes);
// The default model; nullptr when it is not on this machine.
std::unique_ptr<model::GgufFile> OpenDefaultModel();
inline constexpr char kNoDefaultModel[] = "the default model is not on this machine (DUNLIN_TEST_MODEL)";

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_RUNNERS_RUNNER_HARNESS_H_
