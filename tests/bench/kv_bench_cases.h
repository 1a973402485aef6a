// What kv_bench times: the page pool, the prefix cache and a scheduling step, each beside the same work on ListCache.
// Thread-safety: one thread.  Times are medians of several repetitions. Source: ours.
#ifndef DUNLIN_TESTS_BENCH_KV_BENCH_CASES_H_
#define DUNLIN_TESTS_BENCH_KV_BENCH_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dunlin::bench {

struct KvBenchOptions {
  int32_t num_pages = 131'072;
  int32_t prompt_pages = 256;  // 4,096 tokens
  int decoding = 256;          // sequences in the scheduling step
  int steps = 400;             // of them
  int repeat = 5;
};

struct KvFigure {
  std::string name, unit;
  double target = 0;  // at most; < 0: there is none
  double ours = 0;
  double baseline = 0;  // < 0: there is none
};

std::vector<KvFigure> RunPageFigures(const KvBenchOptions& options);
std::vector<KvFigure> RunCacheFigures(const KvBenchOptions& options);
std::vector<KvFigure> RunStepFigures(const KvBenchOptions& options);

// Of this thread on the processor: what else runs on the machine costs caches, but not whole time slices.
double Nanoseconds();
double Median(std::vector<double> values);
double Percentile(std::vector<double> values, double fraction);

}  // namespace dunlin::bench

#endif  // DUNLIN_TESTS_BENCH_KV_BENCH_CASES_H_
