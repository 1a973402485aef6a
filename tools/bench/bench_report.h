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

  std::vector<double> Rates() const;  // tokens per second, one a sample
};

struct BenchReport {
  std::string model, quantization, kv_cache_dtype, isa;
  int threads = 0;
  uint64_t weight_bytes = 0;  // packed
  double load_seconds = 0;
  uint64_t peak_rss_bytes = 0;  // of loading and of the cells, without the roof's arenas where the kernel can tell
  // Every measurement of the run; the figures are their medians.
  std::vector<double> read_bytes_per_second;       // an arena of weight_bytes
  std::vector<double> read_bytes_per_second_1gib;  // an arena of 1 GiB; empty on a machine too small for it
  std::vector<double> int8_ops_per_second;         // multiply-adds
  std::vector<double> f32_ops_per_second;          // multiply-adds
  std::vector<BenchCell> cells;

  // Of the machine's limits, the median sample of a cell uses these parts: memory traffic of the read bandwidth (the
  // arena of weight_bytes), multiply-adds of the weight matrices of the int8 peak.
  double ReadFraction(const BenchCell& cell) const;
  double Int8Fraction(const BenchCell& cell) const;

  std::string Table() const;
  // {machine, model…, roof{read_bytes_per_second, read_bytes_per_second_1gib, int8_ops_per_second, f32_ops_per_second},
  // cells[{test, batch, depth, tokens, tokens_per_second, min, max, read_fraction, int8_fraction, roof_fraction = the
  // larger of both}]}
  std::string Json() const;
};

double Median(std::vector<double> values);  // 0 of none

// "AMD EPYC …, 2 cores" of the machine this runs on; and this process's largest resident set so far.
std::string MachineName();
uint64_t PeakRssBytes();
// Lets PeakRssBytes start again from the present size, where the kernel can do so.
void ResetPeakRss();

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_BENCH_BENCH_REPORT_H_
