#include "tests/bench/kv_accuracy.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_ops.h"
#include "model/gguf/gguf_file.h"
#include "model/model_config.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/f32_runner.h"
#include "tests/support/runner_driver.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::testing {
namespace {

using kernels::KvFormat;
using worker::KvRoundingMode;
using worker::ModelRunner;

struct Row {
  const char* format;
  const char* rounding;
  KvFormat k, v;
  KvRoundingMode mode;
  std::string name() const { return absl::StrCat(format, " ", rounding); }
};

constexpr Row kRows[] = {
    {"bf16", "nearest", KvFormat::kBF16, KvFormat::kBF16, KvRoundingMode::kNearest},
    {"fp8", "nearest", KvFormat::kE4M3, KvFormat::kE4M3, KvRoundingMode::kNearest},
    {"fp8", "centred", KvFormat::kE4M3, KvFormat::kE4M3, KvRoundingMode::kCentred},
    {"fp8", "compensated", KvFormat::kE4M3, KvFormat::kE4M3, KvRoundingMode::kCompensated},
    {"int8_fp8", "nearest", KvFormat::kInt8, KvFormat::kE4M3, KvRoundingMode::kNearest},
    {"int8_fp8", "centred", KvFormat::kInt8, KvFormat::kE4M3, KvRoundingMode::kCentred},
    {"int8_fp8", "compensated", KvFormat::kInt8, KvFormat::kE4M3, KvRoundingMode::kCompensated},
    {"int8", "nearest", KvFormat::kInt8, KvFormat::kInt8, KvRoundingMode::kNearest},
    {"int8", "centred", KvFormat::kInt8, KvFormat::kInt8, KvRoundingMode::kCentred},
    {"int8", "compensated", KvFormat::kInt8, KvFormat::kInt8, KvRoundingMode::kCompensated},
};

class KvAccuracy {
 public:
  KvAccuracy(const KvAccuracyOptions& options, std::ostream& out, std::ostream& err)
      : options_(options), out_(out), err_(err) {}

  absl::Status Run() {
    RETURN_IF_ERROR(Open());
    RETURN_IF_ERROR(ScoreBaseline());
    for (const Row& row : kRows) {
      if (!Wanted(row)) continue;
      absl::StrAppend(&table_, absl::StrFormat("%-9s %-12s", row.format, row.rounding));
      RETURN_IF_ERROR(ScoreRow(row));
      RETURN_IF_ERROR(TimeRow(row));
      table_ += '\n';
      out_ << table_ << std::flush;
      table_.clear();
    }
    return absl::OkStatus();
  }

 private:
  bool Wanted(const Row& row) const {
    return options_.rows.empty() ||
           std::find(options_.rows.begin(), options_.rows.end(), row.name()) != options_.rows.end();
  }

  absl::Status Open() {
    ASSIGN_OR_RETURN(file_, model::GgufFile::Open(options_.model));
    const auto wanted = static_cast<size_t>(options_.windows * options_.window.tokens);
    if (options_.windows < 1) return absl::InvalidArgumentError("--windows: at least 1");
    if (options_.text.empty()) {
      for (const uint32_t id : ReadArray<uint32_t>(GoldenPath("ppl_tokens.u32"))) {
        tokens_.push_back(static_cast<int32_t>(id));
      }
    } else {
      ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::Create(file_->gguf()));
      ASSIGN_OR_RETURN(tokens_, tokenizer->Encode(ReadFile(options_.text), {}));
    }
    if (tokens_.size() < wanted) {
      return absl::InvalidArgumentError(
          absl::StrCat("the text has ", tokens_.size(), " tokens; ", wanted, " are wanted"));
    }
    ASSIGN_OR_RETURN(const model::ModelConfig config, model::ParseModelConfig(file_->gguf()));
    if (*std::max_element(tokens_.begin(), tokens_.end()) >= config.vocab_size) {
      return absl::InvalidArgumentError("the golden ids are not this model's: give --text");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const Row& row, int sequences, int rows) const {
    worker::RunnerOptions o;
    o.k_format = row.k;
    o.v_format = row.v;
    o.kv_rounding = row.mode;
    o.max_model_len = std::max(options_.window.tokens, options_.depth + 2 * options_.steps + 8);
    o.max_rows = rows;
    o.max_num_seqs = sequences;
    o.threads = options_.threads;
    o.kv_bytes = uint64_t{1} << 30;
    o.measure_bandwidth = false;
    o.say = [this](const std::string& line) { err_ << line << '\n'; };
    return options_.f32 ? CreateF32Runner(*file_, o) : CreateCpuRunner(*file_, o);
  }

  RunnerDriver Driver(ModelRunner* runner) const {
    return options_.f32 ? MakeDriver<F32Ops>(runner) : MakeDriver<kernels::cpu::CpuOps>(runner);
  }

  std::span<const int32_t> Window(int w) const {
    const auto n = static_cast<size_t>(options_.window.tokens);
    return std::span<const int32_t>(tokens_).subspan(static_cast<size_t>(w) * n, n);
  }

  absl::Status ScoreBaseline() {
    const Row row{"f32", "", KvFormat::kF32, KvFormat::kF32, KvRoundingMode::kNearest};
    ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner, Create(row, 1, 64));
    RunnerDriver driver = Driver(runner.get());
    LogitsComparison self;
    for (int w = 0; w < options_.windows; ++w) {
      baseline_.push_back(ScoreWindow(&driver, options_.window, Window(w)));
      self.AddWindow(options_.window, baseline_.back(), baseline_.back(), Window(w));
    }
    out_ << absl::StrFormat(
        "%s\n%s path (%s, %d threads), %d windows of %d tokens, %d positions; f32 pages: perplexity %.4f\n\n",
        std::filesystem::path(options_.model).filename().string(), options_.f32 ? "f32" : "fast", runner->info().isa,
        runner->info().threads, options_.windows, options_.window.tokens, self.positions, self.perplexity());
    out_ << absl::StrFormat("%-9s %-12s %9s %8s %9s %9s %7s", "pages", "rounding", "PPL", "ratio", "KL mean", "KL max",
                            "top-1");
    if (!options_.f32) {
      for (const int batch : options_.batch) out_ << absl::StrFormat("  step@%-4d", batch);
    }
    out_ << '\n';
    return absl::OkStatus();
  }

  absl::Status ScoreRow(const Row& row) {
    ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner, Create(row, 1, 64));
    RunnerDriver driver = Driver(runner.get());
    LogitsComparison sum;
    for (int w = 0; w < options_.windows; ++w) {
      sum.AddWindow(options_.window, baseline_[static_cast<size_t>(w)],
                    ScoreWindow(&driver, options_.window, Window(w)), Window(w));
    }
    absl::StrAppend(&table_, absl::StrFormat(" %9.4f %8.5f %9.2e %9.2e %7.4f", sum.perplexity(), sum.perplexity_ratio(),
                                             sum.kl_mean(), sum.kl_max, sum.top1()));
    return absl::OkStatus();
  }

  // Decode steps of `row` and of the same format rounded to nearest, one of each in turn.
  absl::Status TimeRow(const Row& row) {
    if (options_.f32) return absl::OkStatus();
    for (const int batch : options_.batch) {
      Row nearest = row;
      nearest.mode = KvRoundingMode::kNearest;
      std::vector<double> ratios, milliseconds;
      std::unique_ptr<ModelRunner> runners[2];
      std::vector<RunnerDriver> drivers;
      std::vector<RunnerDriver::Sequence> sequences[2];
      for (int i = 0; i < 2; ++i) {
        ASSIGN_OR_RETURN(runners[i], Create(i == 0 ? nearest : row, batch, std::max(64, batch)));
        drivers.push_back(Driver(runners[i].get()));
        sequences[i].resize(static_cast<size_t>(batch));
        for (RunnerDriver::Sequence& s : sequences[i]) {
          drivers.back().Feed(&s,
                              Window(0).first(static_cast<size_t>(std::min(options_.depth, options_.window.tokens))),
                              64, [](int) { return false; });
        }
      }
      for (int step = 0; step < options_.steps; ++step) {
        double seconds[2];
        for (int i = 0; i < 2; ++i) {
          std::vector<RunnerDriver::Part> parts;
          for (RunnerDriver::Sequence& s : sequences[i]) parts.push_back({&s, {Window(0)[1]}, {0}});
          drivers[static_cast<size_t>(i)].Step(parts);
          seconds[i] = absl::ToDoubleSeconds(drivers[static_cast<size_t>(i)].last_result().device_time);
        }
        ratios.push_back(seconds[1] / seconds[0]);
        milliseconds.push_back(seconds[1] * 1e3);
      }
      const auto median = [](std::vector<double>* v) {
        std::nth_element(v->begin(), v->begin() + static_cast<std::ptrdiff_t>(v->size() / 2), v->end());
        return (*v)[v->size() / 2];
      };
      absl::StrAppend(&table_, absl::StrFormat(" %5.1fms %.3f", median(&milliseconds), median(&ratios)));
    }
    return absl::OkStatus();
  }

  const KvAccuracyOptions& options_;
  std::ostream& out_;
  std::ostream& err_;
  std::unique_ptr<model::GgufFile> file_;
  std::vector<int32_t> tokens_;
  std::vector<LogitRows> baseline_;
  std::string table_;
};

}  // namespace

int RunKvAccuracy(const KvAccuracyOptions& options, std::ostream& out, std::ostream& err) {
  const absl::Status status = KvAccuracy(options, out, err).Run();
  if (status.ok()) return 0;
  err << "kv_accuracy_bench: " << status.message() << '\n';
  return 1;
}

}  // namespace dunlin::testing
