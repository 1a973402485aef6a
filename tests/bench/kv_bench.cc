// kv_bench [--json] [--smoke]: what the KV bookkeeping and the scheduler cost on this machine, beside the same work on
// a plain std::list, shared_ptr and unordered_map (kv_bench_cases.h). Gates nothing; --smoke runs it tiny.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/bench/kv_bench_cases.h"

namespace {

using dunlin::bench::KvFigure;

std::string ProcessorName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown";
}

void PrintTable(const std::vector<KvFigure>& figures) {
  std::printf("machine: %s\n%-52s %5s %9s %9s %9s %8s\n", ProcessorName().c_str(), "", "", "at most", "dunlin", "list",
              "list/our");
  for (const KvFigure& f : figures) {
    char target[32] = "-";
    if (f.target >= 0) std::snprintf(target, sizeof(target), "%.0f", f.target);
    std::printf("%-52s %5s %9s %9.2f %9.2f ", f.name.c_str(), f.unit.c_str(), target, f.ours, f.baseline);
    f.ours > 0 ? std::printf("%7.1fx", f.baseline / f.ours) : std::printf("%8s", "-");
    std::printf("%s\n", f.target >= 0 && f.ours > f.target ? "  over" : "");
  }
}

void PrintJson(const std::vector<KvFigure>& figures) {
  nlohmann::json out = {{"machine", ProcessorName()}, {"figures", nlohmann::json::array()}};
  for (const KvFigure& f : figures) {
    nlohmann::json one = {{"name", f.name}, {"unit", f.unit}, {"dunlin", f.ours}, {"list", f.baseline}};
    if (f.target >= 0) one["at_most"] = f.target;
    out["figures"].push_back(std::move(one));
  }
  std::printf("%s\n", out.dump(2).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  dunlin::bench::KvBenchOptions options;
  bool json = false, smoke = false;
  CLI::App app("Times the page pool, the prefix cache and the scheduler.");
  app.add_flag("--json", json, "print JSON");
  app.add_flag("--smoke", smoke, "tiny sizes: only shows that it runs");
  app.add_option("--repeat", options.repeat, "repetitions of each case; the median counts")->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  if (smoke) {
    options.num_pages = 512;
    options.prompt_pages = 16;
    options.decoding = 8;
    options.steps = 100;
    options.repeat = 1;
  }
  std::vector<KvFigure> figures;
  for (const auto run :
       {dunlin::bench::RunPageFigures, dunlin::bench::RunCacheFigures, dunlin::bench::RunStepFigures}) {
    const std::vector<KvFigure> some = run(options);
    figures.insert(figures.end(), some.begin(), some.end());
  }
  json ? PrintJson(figures) : PrintTable(figures);
  return 0;
}
