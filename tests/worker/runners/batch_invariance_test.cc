// A row's result depends on that row alone: whatever shares its step and however its prompt was chunked, every bit is
// the same, whichever way its K and V are rounded.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/reference/reference_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::worker {
namespace {

using kernels::KvFormat;
using testing::RunnerDriver;

struct Backend {
  const char* name;
  const char* isa;  // nullptr: the reference ops
  KvFormat k, v;
  int threads;
  KvRoundingMode rounding = KvRoundingMode::kNearest;
};

std::ostream& operator<<(std::ostream& out, const Backend& b) { return out << b.name; }

class BatchInvarianceTest : public ::testing::TestWithParam<Backend> {
 protected:
  std::unique_ptr<ModelRunner> Open(const std::string& path, int max_model_len,
                                    const kernels::AttentionPattern& pattern = {}) {
    const Backend& b = GetParam();
    if (b.isa != nullptr) {
      bool supported = false;
      for (const kernels::cpu::Isa isa : kernels::cpu::SupportedIsas()) supported |= b.isa == std::string(IsaName(isa));
      if (!supported) return nullptr;
      setenv("DUNLIN_ISA", b.isa, 1);
    }
    auto file = model::GgufFile::Open(path);
    CHECK(file.ok()) << file.status().ToString();
    RunnerOptions options;
    options.k_format = b.k;
    options.v_format = b.v;
    options.max_model_len = max_model_len;
    options.max_rows = 64;
    options.max_num_seqs = 40;
    options.threads = b.threads;
    options.kv_rounding = b.rounding;
    options.kv_bytes = uint64_t{512} << 20;
    options.measure_bandwidth = false;
    options.attention_window = pattern.window;
    options.attention_sinks = pattern.sinks;
    options.attention_top_pages = pattern.top_pages;
    if (pattern.top_pages > 0) options.page_tokens = 8;  // short prompts then hold many pages
    auto runner = b.isa != nullptr ? CreateCpuRunner(**file, options) : CreateReferenceRunner(**file, options);
    CHECK(runner.ok()) << runner.status().ToString();
    unsetenv("DUNLIN_ISA");
    return *std::move(runner);
  }
  RunnerDriver Driver(ModelRunner* runner) {
    if (GetParam().isa == nullptr) {
      return RunnerDriver(
          runner, [runner] { return static_cast<TransformerRunner<kernels::ReferenceOps>*>(runner)->TEST_logits(); });
    }
    return RunnerDriver(
        runner, [runner] { return static_cast<TransformerRunner<kernels::cpu::CpuOps>*>(runner)->TEST_logits(); });
  }

  // Runs `prompts` alone in one chunk each, then all together in random chunks and random company, each followed by
  // `decode` greedy tokens; logits of the last prompt token and of every decoded one must be equal.
  void ExpectInvariant(ModelRunner* runner, const std::vector<std::vector<int32_t>>& prompts, int decode,
                       unsigned seed) {
    using Rows = std::vector<std::vector<float>>;
    std::vector<Rows> alone(prompts.size()), together(prompts.size());
    const auto argmax = [](const std::vector<float>& row) {
      return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
    };
    RunnerDriver driver = Driver(runner);
    for (size_t i = 0; i < prompts.size(); ++i) {
      RunnerDriver::Sequence s;
      const int last = static_cast<int>(prompts[i].size()) - 1;
      alone[i] = driver.Feed(&s, prompts[i], 64, [last](int pos) { return pos == last; });
      for (int d = 0; d < decode; ++d) alone[i].push_back(driver.Step({{&s, {argmax(alone[i].back())}, {0}}})[0]);
      driver.Close(&s);
    }
    std::mt19937 rng(seed);
    const auto pick = [&rng](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(rng); };
    std::vector<RunnerDriver::Sequence> sequences(prompts.size());
    const auto total = [&](size_t i) { return prompts[i].size() + static_cast<size_t>(decode); };
    while (true) {
      std::vector<RunnerDriver::Part> parts;
      std::vector<size_t> who;
      size_t rows = 0;
      for (size_t i = 0; i < prompts.size(); ++i) {
        const size_t done = sequences[i].tokens.size();
        if (done == total(i) || pick(3) == 0) continue;
        RunnerDriver::Part part{&sequences[i], {}, {}};
        if (done < prompts[i].size()) {
          const size_t n = std::min(prompts[i].size() - done, 1 + pick(24));
          if (rows + n > 64) continue;
          part.tokens.assign(prompts[i].begin() + static_cast<std::ptrdiff_t>(done),
                             prompts[i].begin() + static_cast<std::ptrdiff_t>(done + n));
          if (done + n == prompts[i].size()) part.outputs = {static_cast<int32_t>(n) - 1};
        } else {
          if (rows + 1 > 64) continue;
          part.tokens = {argmax(together[i].back())};
          part.outputs = {0};
        }
        rows += part.tokens.size();
        if (!part.outputs.empty()) who.push_back(i);
        parts.push_back(std::move(part));
      }
      if (parts.empty()) {
        bool done = true;
        for (size_t i = 0; i < prompts.size(); ++i) done = done && sequences[i].tokens.size() == total(i);
        if (done) break;
        continue;
      }
      const Rows out = driver.Step(parts);
      for (size_t i = 0; i < who.size(); ++i) together[who[i]].push_back(out[i]);
    }
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_EQ(alone[i].size(), together[i].size());
      for (size_t r = 0; r < alone[i].size(); ++r)
        EXPECT_EQ(alone[i][r], together[i][r]) << "sequence " << i << " output " << r;
    }
  }

  static std::vector<std::vector<int32_t>> RandomPrompts(int count, int longest, int vocab, unsigned seed) {
    std::mt19937 rng(seed);
    std::vector<std::vector<int32_t>> prompts;
    for (int i = 0; i < count; ++i) {
      std::vector<int32_t> p(std::uniform_int_distribution<size_t>(1, static_cast<size_t>(longest))(rng));
      for (int32_t& t : p) t = std::uniform_int_distribution<int32_t>(0, vocab - 1)(rng);
      prompts.push_back(std::move(p));
    }
    return prompts;
  }
};

TEST_P(BatchInvarianceTest, ThirtyTwoSequencesOfATinyModel) {
  const std::string path = ::testing::TempDir() + "batch_invariance_" + std::to_string(::getpid()) + ".gguf";
  testing::TinyLlamaOptions options;
  std::ofstream(path, std::ios::binary) << testing::BuildTinyLlama(options);
  const auto runner = Open(path, 256);
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".dunlin-kv");
  if (runner == nullptr) GTEST_SKIP() << "this processor has no " << GetParam().isa;
  ExpectInvariant(runner.get(), RandomPrompts(32, 150, runner->info().vocab_size, 1), 12, 2);
}

TEST_P(BatchInvarianceTest, EveryAttentionPatternOfATinyModel) {
  const std::string path = ::testing::TempDir() + "batch_invariance_" + std::to_string(::getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary) << testing::BuildTinyLlama({});
  std::vector<std::vector<float>> last;  // of one long prompt, by pattern
  for (const kernels::AttentionPattern& pattern :
       {kernels::AttentionPattern{}, {30, 0, 0}, {30, 5, 0}, {0, 0, 3}, {100, 20, 4}, {0, 0, 32}}) {
    SCOPED_TRACE(::testing::Message() << "window " << pattern.window << " sinks " << pattern.sinks << " top pages "
                                      << pattern.top_pages);
    const auto runner = Open(path, 256, pattern);
    if (runner == nullptr) GTEST_SKIP() << "this processor has no " << GetParam().isa;
    const int vocab = runner->info().vocab_size;
    ExpectInvariant(runner.get(), RandomPrompts(8, 200, vocab, 7), 10, 8);
    RunnerDriver driver = Driver(runner.get());
    RunnerDriver::Sequence s;
    std::vector<int32_t> prompt(220);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 37 % static_cast<size_t>(vocab));
    last.push_back(driver.Feed(&s, prompt, 64, [](int pos) { return pos == 219; })[0]);
  }
  std::filesystem::remove(path);
  for (size_t i = 1; i < last.size(); ++i) {
    for (size_t j = 0; j < i && i + 1 < last.size(); ++j) {
      EXPECT_NE(last[i], last[j]) << "patterns " << i << " and " << j;
    }
  }
  EXPECT_EQ(last.back(), last.front()) << "32 pages are all";
}

TEST_P(BatchInvarianceTest, SequencesOfTheDefaultModel) {
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not in the cache";
  const bool slow = GetParam().isa == nullptr || GetParam().isa == std::string("scalar");
  // Through a link in a folder of the test's: what the runner keeps beside the model stays here.
  const std::string folder = ::testing::TempDir() + "batch_invariance_" + std::to_string(::getpid());
  std::filesystem::create_directories(folder);
  std::filesystem::create_symlink(path, folder + "/model.gguf");
  const auto runner = Open(folder + "/model.gguf", 512);
  std::filesystem::remove_all(folder);
  if (runner == nullptr) GTEST_SKIP() << "this processor has no " << GetParam().isa;
  ExpectInvariant(runner.get(), RandomPrompts(slow ? 4 : 12, slow ? 30 : 120, runner->info().vocab_size, 3),
                  slow ? 2 : 8, 4);
}

INSTANTIATE_TEST_SUITE_P(Backends, BatchInvarianceTest,
                         ::testing::Values(Backend{"reference", nullptr, KvFormat::kE4M3, KvFormat::kE4M3, 2},
                                           Backend{"scalar", "scalar", KvFormat::kE4M3, KvFormat::kE4M3, 2},
                                           Backend{"avx2", "avx2", KvFormat::kE4M3, KvFormat::kE4M3, 2},
                                           Backend{"avx2_3_threads", "avx2", KvFormat::kInt8, KvFormat::kE4M3, 3},
                                           Backend{"avx2_f16", "avx2", KvFormat::kF16, KvFormat::kF16, 1},
                                           Backend{"avx2_compensated", "avx2", KvFormat::kE4M3, KvFormat::kInt8, 3,
                                                   KvRoundingMode::kCompensated},
                                           Backend{"avx512vnni", "avx512vnni", KvFormat::kE4M3, KvFormat::kE4M3, 2}),
                         [](const ::testing::TestParamInfo<Backend>& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace dunlin::worker
