// What attention patterns cost and save on the default model: perplexity over long windows of the golden text, and the
// time and KV bytes of a decode step behind a long context, each beside dense attention in the same run.
//   attention-pattern-bench [windows 1…4] [decode rounds]
// Prints one line per pattern. Perplexity: windows of 2,048 ids, the second half of each scored. Decode: rounds of 16
// steps behind 2,000 tokens, all patterns in turn; median and minimum over all steps.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/attention_mask.h"
#include "kernels/cpu/cpu_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/runner_driver.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin {
namespace {

constexpr int kWindow = 2048;
constexpr int kDepth = 2000;
constexpr int kStepsPerRound = 16;
constexpr int kRows = 64;

struct Candidate {
  std::string name;
  kernels::AttentionPattern pattern;
  std::unique_ptr<worker::ModelRunner> runner;
  std::unique_ptr<testing::RunnerDriver> driver;
  testing::RunnerDriver::Sequence decoding;
  std::vector<double> milliseconds;
  uint64_t kv_bytes = 0;
  double nll_sum = 0.0;
  int scored = 0;
  double prefill_seconds = 1e9;  // of the fastest window, logits of its second half included
  double nll() const { return nll_sum / scored; }
};

void Open(const model::GgufFile& file, Candidate* c) {
  worker::RunnerOptions options;
  options.max_model_len = kWindow + 512;
  options.max_rows = kRows;
  options.max_num_seqs = 1;
  options.kv_bytes = uint64_t{1} << 30;
  options.measure_bandwidth = false;
  options.attention_window = c->pattern.window;
  options.attention_sinks = c->pattern.sinks;
  options.attention_top_pages = c->pattern.top_pages;
  auto runner = worker::CreateCpuRunner(file, options);
  CHECK(runner.ok()) << runner.status().ToString();
  c->runner = *std::move(runner);
  auto* const transformer = static_cast<worker::TransformerRunner<kernels::cpu::CpuOps>*>(c->runner.get());
  c->driver =
      std::make_unique<testing::RunnerDriver>(transformer, [transformer] { return transformer->TEST_logits(); });
}

double NegativeLogLikelihood(const std::vector<float>& logits, int32_t id) {
  const double max = double{*std::max_element(logits.begin(), logits.end())};
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(double{x} - max);
  return max + std::log(sum) - double{logits[static_cast<size_t>(id)]};
}

// Scores the second half of a window.
void MeasurePerplexity(const std::vector<int32_t>& ids, int window, Candidate* c) {
  testing::RunnerDriver::Sequence s;
  double seconds = 0.0;
  for (int at = 0; at < kWindow; at += kRows) {
    testing::RunnerDriver::Part part{&s, {}, {}};
    for (int i = 0; i < kRows; ++i) {
      part.tokens.push_back(ids[static_cast<size_t>(window * kWindow + at + i)]);
      if (at + i >= kWindow / 2 && at + i < kWindow - 1) part.outputs.push_back(i);
    }
    const auto logits = c->driver->Step({part});
    seconds += absl::ToDoubleSeconds(c->driver->last_result().device_time);
    for (size_t i = 0; i < logits.size(); ++i) {
      const int next = window * kWindow + at + part.outputs[i] + 1;
      c->nll_sum += NegativeLogLikelihood(logits[i], ids[static_cast<size_t>(next)]);
      ++c->scored;
    }
  }
  c->prefill_seconds = std::min(c->prefill_seconds, seconds);
  c->driver->Close(&s);
}

void MeasureDecode(const std::vector<int32_t>& ids, Candidate* c) {
  testing::RunnerDriver::Sequence* s = &c->decoding;
  if (s->tokens.empty()) c->driver->Feed(s, std::span(ids).first(kDepth), kRows, [](int) { return false; });
  for (int i = 0; i < kStepsPerRound; ++i) {
    c->driver->Step({{s, {ids[s->tokens.size()]}, {0}}});
    c->milliseconds.push_back(absl::ToDoubleMilliseconds(c->driver->last_result().device_time));
    c->kv_bytes = c->driver->last_result().traffic.kv_read_bytes;
  }
}

int Main(int windows, int rounds) {
  CHECK(windows >= 1 && windows <= 4 && rounds >= 1 && rounds <= 30);
  auto file = model::GgufFile::Open(testing::DefaultModelPath());
  CHECK(file.ok()) << file.status().ToString();
  const std::vector<uint32_t> text = testing::ReadArray<uint32_t>(testing::GoldenPath("ppl_tokens.u32"));
  const std::vector<int32_t> ids(text.begin(), text.end());
  std::vector<Candidate> candidates;
  for (const auto& [name, pattern] : std::initializer_list<std::pair<const char*, kernels::AttentionPattern>>{
           {"dense", {}},
           {"top 8 pages", {0, 0, 8}},
           {"top 16 pages", {0, 0, 16}},
           {"top 32 pages", {0, 0, 32}},
           {"window 512", {512, 0, 0}},
           {"window 512, 16 sinks", {512, 16, 0}}}) {
    candidates.push_back({});
    candidates.back().name = name;
    candidates.back().pattern = pattern;
    Open(**file, &candidates.back());
  }
  for (int round = 0; round < rounds; ++round) {
    for (Candidate& c : candidates) MeasureDecode(ids, &c);
  }
  for (Candidate& c : candidates) c.driver->Close(&c.decoding);
  for (int window = 0; window < windows; ++window) {
    for (Candidate& c : candidates) MeasurePerplexity(ids, window, &c);
  }
  std::printf("%-22s %10s %9s %12s %10s %10s %12s\n", "pattern", "perplexity", "vs dense", "decode ms", "least ms",
              "KV MB/step", "prefill s");
  for (Candidate& c : candidates) {
    std::sort(c.milliseconds.begin(), c.milliseconds.end());
    std::printf("%-22s %10.4f %+8.2f%% %12.3f %10.3f %10.2f %12.2f\n", c.name.c_str(), std::exp(c.nll()),
                100.0 * (std::exp(c.nll() - candidates[0].nll()) - 1.0), c.milliseconds[c.milliseconds.size() / 2],
                c.milliseconds[0], static_cast<double>(c.kv_bytes) / 1e6, c.prefill_seconds);
  }
  return 0;
}

}  // namespace
}  // namespace dunlin

int main(int argc, char** argv) {
  return dunlin::Main(argc > 1 ? std::atoi(argv[1]) : 4, argc > 2 ? std::atoi(argv[2]) : 5);
}
