// What `dunlin bench` measured, and its two forms. Thread-safety: plain data.
#ifndef DUNLIN_TOOLS_BENCH_BENCH_REPORT_H_
#define DUNLIN_TOOLS_BENCH_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace dunlin::tools {

struct BenchSample {
  double seconds = 0;
  double tokens = 0;
  double bytes = 0;          // moved to and from memory by the steps
  double multiply_adds = 0;  // of the weight matrices
};

struct BenchCell {
  const char* test;  // "prefill" or "decode"
  int batch;
  int depth;
  int tokens;  // per sequence
  std::vector<BenchSample> samples;
  std::vector<double> roof_fractions;  // parallel to samples
};

struct BenchReport {
  std::string model, quantization, kv_cache_dtype, isa;
  int threads = 0;
  uint64_t weight_bytes = 0;  // packed
  double load_seconds = 0;
  uint64_t peak_rss_bytes = 0;
  std::vector<double> read_bytes_per_second;  // every measurement of the run
  std::vector<double> int8_ops_per_second;    // multiply-adds
  std::vector<BenchCell> cells;

  // Medians.
  double ReadRoof() const;
  double Int8Roof() const;

  std::string Table() const;
  // {machine, model…, roof{read_bytes_per_second, int8_ops_per_second}, cells[{test, batch, depth, tokens,
  // tokens_per_second, min, max, roof_fraction}]}
  std::string Json() const;
};

// "AMD EPYC …, 2 cores" of the machine this runs on; and this process's largest resident set so far.
std::string MachineName();
uint64_t PeakRssBytes();

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_BENCH_BENCH_REPORT_H_
