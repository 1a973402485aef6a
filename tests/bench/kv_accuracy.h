// What each way of storing K and V costs a model, in accuracy and in time: one table. Every row runs the same weights
// and the same arithmetic ("fast": the CPU backend with int8 activations; "f32": its kernels on f32 weights and
// activations) and is compared, position by position, with f32 pages on that path, so the difference is the pages'
// alone. Time: the same decode steps with each rounding of a format, interleaved; the median of their ratios to
// rounding to nearest. Thread-safety: one thread.  Errors: named on `err`; returns the exit code.
#ifndef DUNLIN_TESTS_BENCH_KV_ACCURACY_H_
#define DUNLIN_TESTS_BENCH_KV_ACCURACY_H_

#include <ostream>
#include <string>
#include <vector>

#include "tests/support/logits_comparison.h"

namespace dunlin::testing {

struct KvAccuracyOptions {
  std::string model;
  std::string text;  // "": the ids of tests/golden/ppl_tokens.u32, which are the default model's; else this file,
                     // tokenised by the model
  int windows = 16;
  ScoredWindow window;
  int threads = 0;  // 0 = every core this process may use
  bool f32 = false;
  std::vector<int> batch = {1, 8, 32};  // of the decode steps; empty: no timing (the f32 path has none)
  int depth = 256;                      // context of the decode steps
  int steps = 24;                       // decode steps per row and batch size
  std::vector<std::string> rows;        // "fp8 nearest", …; empty = all
};

int RunKvAccuracy(const KvAccuracyOptions& options, std::ostream& out, std::ostream& err);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_BENCH_KV_ACCURACY_H_
