// trace_bench FILE.jsonl[.gz]… [--capacities N,N,…]: hit ratios of one prefix cache over request traces, by its
// capacity in blocks, as TSV (trace_replay.h). Exit code 2 when a trace cannot be read.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "tests/bench/trace_replay.h"

int main(int argc, char** argv) {
  std::vector<std::string> files;
  std::vector<int32_t> capacities{500, 1000, 2000, 5000, 10000, 20000, 50000};
  CLI::App app("Replays request traces through the prefix cache and simulations to compare it with.");
  app.add_option("files", files, "JSONL traces with hash_ids, plain or gzip; read one after the other")->required();
  app.add_option("--capacities", capacities, "of the cache, in blocks")->delimiter(',')->check(CLI::Range(1, 1 << 24));
  CLI11_PARSE(app, argc, argv);

  dunlin::bench::Trace trace;
  for (const std::string& file : files) {
    if (const absl::Status read = ReadTrace(file, &trace); !read.ok()) {
      std::fprintf(stderr, "error: %s\n", std::string(read.message()).c_str());
      return 2;
    }
  }
  std::vector<dunlin::bench::TraceRow> rows;
  for (const int32_t capacity : capacities) rows.push_back(ReplayTrace(trace, capacity));
  PrintTraceRows(rows, std::cout);
  return 0;
}
