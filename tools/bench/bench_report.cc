#include "tools/bench/bench_report.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dunlin::tools {
namespace {

double Least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }
double Most(const std::vector<double>& values) { return *std::max_element(values.begin(), values.end()); }

// Units of a resource per second, as the median over the samples.
double MedianRate(const BenchCell& cell, double BenchSample::*units) {
  std::vector<double> rates;
  for (const BenchSample& s : cell.samples) rates.push_back(s.*units / s.seconds);
  return Median(std::move(rates));
}

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::vector<double> BenchCell::Rates() const {
  std::vector<double> rates;
  for (const BenchSample& s : samples) rates.push_back(s.tokens / s.seconds);
  return rates;
}

double BenchReport::ReadFraction(const BenchCell& cell) const {
  return MedianRate(cell, &BenchSample::bytes) / Median(read_bytes_per_second);
}
double BenchReport::Int8Fraction(const BenchCell& cell) const {
  return MedianRate(cell, &BenchSample::multiply_adds) / Median(int8_ops_per_second);
}

std::string BenchReport::Table() const {
  std::string out = absl::StrFormat(
      "%s, %s, %d threads\n%s: %s weights (%.1f MB packed), %s KV pages, loaded in %.2f s, peak RSS %.0f MB\n",
      MachineName(), isa, threads, model, quantization, static_cast<double>(weight_bytes) / 1e6, kv_cache_dtype,
      load_seconds, static_cast<double>(peak_rss_bytes) / 1e6);
  absl::StrAppendFormat(&out, "roof of this run: %.1f GB/s read over an arena of weight size (%.1f to %.1f)",
                        Median(read_bytes_per_second) / 1e9, Least(read_bytes_per_second) / 1e9,
                        Most(read_bytes_per_second) / 1e9);
  if (!read_bytes_per_second_1gib.empty()) {
    absl::StrAppendFormat(&out, ", %.1f over 1 GiB", Median(read_bytes_per_second_1gib) / 1e9);
  }
  absl::StrAppendFormat(&out, ";\n%.0f G int8 multiply-adds/s (%.0f to %.0f), %.0f G in f32\n\n",
                        Median(int8_ops_per_second) / 1e9, Least(int8_ops_per_second) / 1e9,
                        Most(int8_ops_per_second) / 1e9, Median(f32_ops_per_second) / 1e9);
  absl::StrAppend(&out, "test      batch  depth  tokens     tok/s       min       max   of bandwidth   of int8 peak\n");
  for (const BenchCell& cell : cells) {
    const std::vector<double> rates = cell.Rates();
    absl::StrAppendFormat(&out, "%-8s %6d %6d %7d %9.1f %9.1f %9.1f %12.0f %% %12.0f %%\n", cell.test, cell.batch,
                          cell.depth, cell.tokens, Median(rates), Least(rates), Most(rates), 100 * ReadFraction(cell),
                          100 * Int8Fraction(cell));
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
  j["roof"] = {{"read_bytes_per_second", Median(read_bytes_per_second)},
               {"read_bytes_per_second_1gib", Median(read_bytes_per_second_1gib)},
               {"int8_ops_per_second", Median(int8_ops_per_second)},
               {"f32_ops_per_second", Median(f32_ops_per_second)}};
  j["cells"] = nlohmann::ordered_json::array();
  for (const BenchCell& cell : cells) {
    const std::vector<double> rates = cell.Rates();
    j["cells"].push_back({{"test", cell.test},
                          {"batch", cell.batch},
                          {"depth", cell.depth},
                          {"tokens", cell.tokens},
                          {"tokens_per_second", Median(rates)},
                          {"min", Least(rates)},
                          {"max", Most(rates)},
                          {"read_fraction", ReadFraction(cell)},
                          {"int8_fraction", Int8Fraction(cell)},
                          {"roof_fraction", std::max(ReadFraction(cell), Int8Fraction(cell))}});
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
  std::ifstream in("/proc/self/status");
  std::string line;
  uint64_t kib = 0;
  while (std::getline(in, line)) {
    if (std::sscanf(line.c_str(), "VmHWM: %" SCNu64, &kib) == 1) return kib * 1024;
  }
  return 0;
}

void ResetPeakRss() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace dunlin::tools
