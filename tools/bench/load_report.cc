#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tools/bench/load_bench.h"

namespace dunlin::tools {
namespace {

// The smallest value that at least this part of all does not exceed.
double Percentile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(std::ceil(part * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

double Mean(const std::vector<double>& values) {
  return values.empty() ? 0 : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

LoadReport Summarize(const std::vector<LoadRecord>& records, double seconds, const LoadBenchOptions& options) {
  LoadReport report;
  report.requests = static_cast<int>(records.size());
  report.seconds = seconds;
  std::vector<double> first, between;
  int good = 0;
  for (const LoadRecord& r : records) {
    report.tokens += r.tokens;
    if (!r.ok) {
      ++report.failed;
      continue;
    }
    first.push_back(r.ttft_ms);
    between.insert(between.end(), r.itl_ms.begin(), r.itl_ms.end());
    if (r.ttft_ms <= options.ttft_limit_ms && Mean(r.itl_ms) <= options.itl_limit_ms) ++good;
  }
  report.tokens_per_second = report.tokens / seconds;
  report.requests_per_second = (report.requests - report.failed) / seconds;
  report.ttft_p50_ms = Percentile(first, 0.5);
  report.ttft_p99_ms = Percentile(first, 0.99);
  report.itl_p50_ms = Percentile(between, 0.5);
  report.itl_p99_ms = Percentile(between, 0.99);
  report.goodput = good / seconds;
  return report;
}

std::string LoadReport::Table() const {
  return absl::StrFormat(
      "%d requests, %d failed, %d tokens in %.2f s: %.1f tok/s, %.2f requests/s, %.2f within both limits\n"
      "first token: p50 %.1f ms, p99 %.1f ms; between tokens: p50 %.2f ms, p99 %.2f ms\n"
      "this client used %.2f s of processor time\n",
      requests, failed, tokens, seconds, tokens_per_second, requests_per_second, goodput, ttft_p50_ms, ttft_p99_ms,
      itl_p50_ms, itl_p99_ms, client_cpu_seconds);
}

std::string LoadReport::Json() const {
  const nlohmann::ordered_json j = {{"requests", requests},
                                    {"failed", failed},
                                    {"tokens", tokens},
                                    {"seconds", seconds},
                                    {"tokens_per_second", tokens_per_second},
                                    {"requests_per_second", requests_per_second},
                                    {"goodput", goodput},
                                    {"ttft_ms", {{"p50", ttft_p50_ms}, {"p99", ttft_p99_ms}}},
                                    {"itl_ms", {{"p50", itl_p50_ms}, {"p99", itl_p99_ms}}},
                                    {"client_cpu_seconds", client_cpu_seconds}};
  return j.dump(2) + "\n";
}

}  // namespace dunlin::tools
