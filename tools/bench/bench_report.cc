#include "tools/bench/bench_report.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dunlin::tools {
namespace {

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::vector<double> Rates(const BenchCell& cell) {
  std::vector<double> rates;
  for (const BenchSample& s : cell.samples) rates.push_back(s.tokens / s.seconds);
  return rates;
}

}  // namespace

double BenchReport::ReadRoof() const { return Median(read_bytes_per_second); }
double BenchReport::Int8Roof() const { return Median(int8_ops_per_second); }

std::string BenchReport::Table() const {
  std::string out = absl::StrFormat(
      "%s, %s, %d threads\n%s: %s weights (%.1f MB packed), %s KV pages, loaded in %.2f s, peak RSS %.0f MB\n",
      MachineName(), isa, threads, model, quantization, static_cast<double>(weight_bytes) / 1e6, kv_cache_dtype,
      load_seconds, static_cast<double>(peak_rss_bytes) / 1e6);
  absl::StrAppendFormat(
      &out, "roof of this run: %.1f GB/s read over an arena of weight size, %.0f G int8 multiply-adds/s\n\n",
      ReadRoof() / 1e9, Int8Roof() / 1e9);
  absl::StrAppend(&out, "test      batch  depth  tokens     tok/s       min       max   of the roof\n");
  for (const BenchCell& cell : cells) {
    const std::vector<double> rates = Rates(cell);
    absl::StrAppendFormat(&out, "%-8s %6d %6d %7d %9.1f %9.1f %9.1f %12.0f %%\n", cell.test, cell.batch, cell.depth,
                          cell.tokens, Median(rates), *std::min_element(rates.begin(), rates.end()),
                          *std::max_element(rates.begin(), rates.end()), 100 * Median(cell.roof_fractions));
  }
  return out;
}

std::string BenchReport::Json() const {
  nlohmann::ordered_json j;
  j["machine"] = MachineName();
  j["model"] = model;
  j["quantization"] = quantization;
  j["kv_cache_dtype"] = kv_cache_dtype;
  j["isa"] = isa;
  j["threads"] = threads;
  j["weight_bytes"] = weight_bytes;
  j["load_seconds"] = load_seconds;
  j["peak_rss_bytes"] = peak_rss_bytes;
  j["roof"] = {{"read_bytes_per_second", ReadRoof()}, {"int8_ops_per_second", Int8Roof()}};
  j["cells"] = nlohmann::ordered_json::array();
  for (const BenchCell& cell : cells) {
    const std::vector<double> rates = Rates(cell);
    j["cells"].push_back({{"test", cell.test},
                          {"batch", cell.batch},
                          {"depth", cell.depth},
                          {"tokens", cell.tokens},
                          {"tokens_per_second", Median(rates)},
                          {"min", *std::min_element(rates.begin(), rates.end())},
                          {"max", *std::max_element(rates.begin(), rates.end())},
                          {"roof_fraction", Median(cell.roof_fractions)}});
  }
  return j.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string MachineName() {
  std::ifstream in("/proc/cpuinfo");
  std::string line, name = "unknown processor";
  while (std::getline(in, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      name = line.substr(colon + 2);
      break;
    }
  }
  return absl::StrCat(name, ", ", std::thread::hardware_concurrency(), " cores");
}

uint64_t PeakRssBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace dunlin::tools
