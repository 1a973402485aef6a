// `dunlin bench load`: the load of many clients on a running server over gRPC, as its clients see it. Either one burst
// of requests that all start together, or an open loop: requests arrive at a rate (Poisson), whether or not the server
// keeps up. Every request is greedy, ignores the end-of-sequence token and asks for exactly max_tokens. Thread-safety:
// call from one thread; it runs one thread per request in flight.  Errors: named on `err`; returns the exit code, 1
// when any request failed.  Times are the client's own: time to first token and between tokens (a message of several
// tokens shares its gap among them) in milliseconds, processor time of this process in seconds.
#ifndef DUNLIN_TOOLS_BENCH_LOAD_BENCH_H_
#define DUNLIN_TOOLS_BENCH_LOAD_BENCH_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dunlin::tools {

struct LoadBenchOptions {
  std::string address;  // host:port
  std::string api_key;  // empty: the environment's DUNLIN_API_KEY
  int burst = 0;        // requests that start together; 0 = open loop
  double rate = 1.0;    // open loop: requests a second
  int requests = 32;    // open loop: how many
  int prompt_tokens = 128;
  int shared_tokens = 0;  // before them, the same for every request
  int max_tokens = 64;
  std::string ids;    // a file of little-endian uint32 token ids to cut prompts from; empty: ids below 1,000 at random
  int first = 0;      // number of the first prompt: another burst takes other prompts
  uint64_t seed = 1;  // of arrivals and random prompts
  double timeout_seconds = 600;
  double ttft_limit_ms = 1000;  // goodput counts requests within both limits
  double itl_limit_ms = 100;    // mean of the request
  bool json = false;
};

int RunLoadBench(const LoadBenchOptions& options, std::ostream& out, std::ostream& err);

// One request as its client saw it.
struct LoadRecord {
  bool ok = false;
  double ttft_ms = 0;
  std::vector<double> itl_ms;  // one per token after the first message's
  int tokens = 0;
};

struct LoadReport {
  int requests = 0, failed = 0, tokens = 0;
  double seconds = 0;  // from the first start to the last end
  double tokens_per_second = 0;
  double requests_per_second = 0;
  double ttft_p50_ms = 0, ttft_p99_ms = 0, itl_p50_ms = 0, itl_p99_ms = 0;
  double goodput = 0;  // requests a second that kept both limits
  double client_cpu_seconds = 0;

  std::string Table() const;
  std::string Json() const;  // one object with the fields above
};
LoadReport Summarize(const std::vector<LoadRecord>& records, double seconds, const LoadBenchOptions& options);

// The token ids of prompt `number`: the shared beginning, then a part of the source that no other number of a few
// thousand starts at. Fails when the source is too short.
absl::StatusOr<std::vector<uint32_t>> MakePrompt(const std::vector<uint32_t>& source, const LoadBenchOptions& options,
                                                 int number);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_BENCH_LOAD_BENCH_H_
