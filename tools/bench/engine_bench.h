// `dunlin bench`: how fast the CPU runner prefills and decodes, beside the machine's own limits measured in the same
// run. No tokenizer, no sampling beyond greedy, no gRPC: comparable with other engines' own benchmarks. Thread-safety:
// call from one thread.  Errors: named on `err`; returns the exit code. Method: every repeat runs every cell once
// (so that noise spreads over all of them) between two measurements of the roof; the median counts, with minimum and
// maximum beside it. Of the roof: bytes the steps moved / time / read bandwidth, and int8 multiply-adds of the weight
// matrices / time / int8 peak.
#ifndef DUNLIN_TOOLS_BENCH_ENGINE_BENCH_H_
#define DUNLIN_TOOLS_BENCH_ENGINE_BENCH_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace dunlin::tools {

struct EngineBenchOptions {
  std::string model;
  int threads = 0;                   // 0 = every core this process may use
  int decode_threads = 0;            // of these, for steps of a few rows; 0 = tuned
  std::vector<int> prefill = {512};  // prompt lengths; 0 = none
  int decode = 128;                  // tokens per sequence; 0 = no decoding
  std::vector<int> batch = {1, 8, 32};
  std::vector<int> depth = {0};  // context before the first decoded token
  int repeat = 5;
  std::string kv_cache_dtype = "auto";
  uint64_t large_read_bytes = uint64_t{1} << 30;  // the arena of the roof's second read bandwidth
  bool json = false;
  bool progress = false;  // one changing line on err
};

int RunEngineBench(const EngineBenchOptions& options, std::ostream& out, std::ostream& err);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_BENCH_ENGINE_BENCH_H_
