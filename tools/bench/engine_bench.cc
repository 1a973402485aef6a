#include "tools/bench/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/roofline.h"
#include "model/hugging_face/open_model.h"
#include "model/model_config.h"
#include "tools/bench/bench_report.h"
#include "worker/kv_formats.h"
#include "worker/memory_budget.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::tools {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr int kPageTokens = 16;
constexpr int kChunkRows = 256;  // rows of a prefill step, as the server's default
constexpr int kMaxBatch = 1024;
constexpr int kMaxRepeat = 1000;

double SecondsSince(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

// Multiply-adds of the weight matrices: per row of the batch, and per row that gives logits.
struct Work {
  double per_row = 0;
  double per_output = 0;
};
Work CountWork(const model::Gguf& gguf, const model::ModelConfig& config) {
  Work work;
  for (const model::GgufTensor& t : gguf.tensors()) {
    if (t.dims.size() == 2 && absl::StartsWith(t.name, "blk.")) work.per_row += static_cast<double>(t.num_elements());
  }
  work.per_output = static_cast<double>(config.vocab_size) * config.hidden_size;
  return work;
}

int Largest(const std::vector<int>& values) { return *std::max_element(values.begin(), values.end()); }

absl::Status CheckRange(const char* name, const std::vector<int>& values, int min, int max) {
  if (values.empty()) return absl::InvalidArgumentError(absl::StrFormat("%s: no value", name));
  for (const int v : values) {
    if (v < min || v > max) {
      return absl::InvalidArgumentError(absl::StrFormat("%s %d: allowed is %d to %d", name, v, min, max));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const EngineBenchOptions& options, int context_tokens) {
  RETURN_IF_ERROR(CheckRange("--prefill", options.prefill, 0, context_tokens));
  RETURN_IF_ERROR(CheckRange("--decode", {options.decode}, 0, context_tokens));
  RETURN_IF_ERROR(CheckRange("--depth", options.depth, 0, context_tokens - options.decode));
  RETURN_IF_ERROR(CheckRange("--batch", options.batch, 1, kMaxBatch));
  RETURN_IF_ERROR(CheckRange("--repeat", {options.repeat}, 1, kMaxRepeat));
  if (options.decode == 0 && Largest(options.prefill) == 0) {
    return absl::InvalidArgumentError("--prefill 0 and --decode 0 leave nothing to measure");
  }
  return absl::OkStatus();
}

class Bench {
 public:
  static absl::StatusOr<std::unique_ptr<Bench>> Create(const EngineBenchOptions& options) {
    auto bench = std::make_unique<Bench>();
    bench->options_ = options;
    ASSIGN_OR_RETURN(const worker::KvFormats formats, worker::ParseKvFormats(options.kv_cache_dtype));
    const auto begin = SteadyClock::now();
    ASSIGN_OR_RETURN(const auto file, model::OpenModel(options.model));
    ASSIGN_OR_RETURN(const model::ModelConfig config, model::ParseModelConfig(file->gguf()));
    RETURN_IF_ERROR(CheckOptions(options, config.context_tokens));
    bench->work_ = CountWork(file->gguf(), config);

    const int longest_prefill = Largest(options.prefill);
    const int longest_decode = options.decode + Largest(options.depth);
    const int largest_batch = Largest(options.batch);
    bench->filled_.assign(static_cast<size_t>(largest_batch), 0);
    worker::RunnerOptions runner;
    runner.k_format = formats.k;
    runner.v_format = formats.v;
    runner.page_tokens = kPageTokens;
    runner.max_model_len = std::max({longest_prefill, longest_decode, 2});
    runner.max_rows = std::max(kChunkRows, largest_batch);
    runner.max_num_seqs = largest_batch;
    runner.threads = options.threads;
    runner.decode_threads = options.decode_threads;
    runner.measure_bandwidth = false;
    const kernels::PageLayout layout = kernels::PageLayout::Create(kPageTokens, config.num_layers, config.num_kv_heads,
                                                                   config.head_dim, formats.k, formats.v);
    bench->pages_per_sequence_ = (runner.max_model_len + kPageTokens - 1) / kPageTokens;
    runner.kv_bytes =
        layout.page_bytes * static_cast<uint64_t>(bench->pages_per_sequence_) * static_cast<uint64_t>(largest_batch);
    ASSIGN_OR_RETURN(bench->runner_, worker::CreateCpuRunner(*file, runner));
    bench->report_.load_seconds = SecondsSince(begin);
    bench->report_.peak_rss_bytes = PeakRssBytes();
    bench->report_.model = options.model;
    bench->report_.quantization = config.quantization;
    bench->report_.kv_cache_dtype = formats.name;
    bench->report_.isa = bench->runner_->info().isa;
    bench->report_.threads = bench->runner_->info().threads;
    bench->report_.weight_bytes = bench->runner_->info().weight_bytes;
    std::string error;
    const auto isa = kernels::cpu::SelectIsa(std::getenv("DUNLIN_ISA"), &error);
    if (!isa.has_value()) return absl::InvalidArgumentError(error);
    bench->roof_ops_ = std::make_unique<kernels::cpu::CpuOps>(bench->runner_->info().threads, *isa);
    for (const int tokens : options.prefill) {
      if (tokens > 0) bench->report_.cells.push_back({"prefill", 1, 0, tokens, {}});
    }
    for (const int depth : options.depth) {
      for (const int batch : options.batch) {
        if (options.decode > 0) bench->report_.cells.push_back({"decode", batch, depth, options.decode, {}});
      }
    }
    return bench;
  }

  absl::StatusOr<BenchReport> Run(std::ostream& err) {
    for (int r = 0; r < options_.repeat; ++r) {
      MeasureRoof();
      MeasureLargeRead();
      ResetPeakRss();
      for (BenchCell& cell : report_.cells) {
        if (options_.progress) {
          err << absl::StrFormat("\r\033[Krepeat %d of %d: %s, batch %d, depth %d ", r + 1, options_.repeat, cell.test,
                                 cell.batch, cell.depth)
              << std::flush;
        }
        RETURN_IF_ERROR(cell.test == std::string("prefill") ? Prefill(&cell) : Decode(&cell));
      }
      report_.peak_rss_bytes = std::max(report_.peak_rss_bytes, PeakRssBytes());
      MeasureRoof();
    }
    if (options_.progress) err << "\r\033[K" << std::flush;
    return report_;
  }

 private:
  void MeasureRoof() {
    const kernels::cpu::KernelTable& kernels = roof_ops_->kernels();
    kernels::cpu::ThreadPool* const pool = &roof_ops_->pool();
    report_.read_bytes_per_second.push_back(kernels::cpu::MeasureReadBandwidth(kernels, pool, report_.weight_bytes));
    report_.int8_ops_per_second.push_back(kernels::cpu::MeasureInt8Peak(kernels, pool));
    report_.f32_ops_per_second.push_back(kernels::cpu::MeasureFloatPeak(kernels, pool));
  }

  // What does not fit any cache. A machine for which that is much goes without.
  void MeasureLargeRead() {
    const uint64_t bytes = options_.large_read_bytes;
    const absl::StatusOr<worker::HostMemory> host = worker::ReadHostMemory();
    if (!host.ok() || host->available_bytes < 2 * bytes) return;
    report_.read_bytes_per_second_1gib.push_back(
        kernels::cpu::MeasureReadBandwidth(roof_ops_->kernels(), &roof_ops_->pool(), bytes));
  }

  // Sequence s owns the pages [s * pages_per_sequence_, …).
  struct Rows {
    int sequence, first_token, count;
    bool output;
  };
  absl::Status Step(const std::vector<Rows>& parts, BenchSample* sample) {
    batch_.Clear();
    for (const Rows& part : parts) {
      kernels::SequenceSlice slice;
      slice.first_row = batch_.num_rows();
      slice.num_rows = part.count;
      slice.context_tokens = part.first_token;
      for (int i = 0; i < part.count; ++i) {
        const int token = part.first_token + i;
        batch_.positions.push_back(token);
        batch_.token_ids.push_back((part.sequence * 7919 + token * 31 + 17) % runner_->info().vocab_size);
      }
      if (part.output) batch_.output_rows.push_back(batch_.num_rows() - 1);
      batch_.sequences.push_back(slice);
      for (int p = 0; p < pages_per_sequence_; ++p) batch_.page_ids.push_back(part.sequence * pages_per_sequence_ + p);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      batch_.sequences[i].pages = batch_.page_ids.data() + i * static_cast<size_t>(pages_per_sequence_);
    }
    batch_.sample_params.resize(batch_.output_rows.size());
    for (kernels::SampleParams& p : batch_.sample_params) p.temperature = 0.0f;
    const auto begin = SteadyClock::now();
    RETURN_IF_ERROR(runner_->Step(batch_, &result_));
    if (sample != nullptr) {
      sample->seconds += SecondsSince(begin);
      sample->bytes += static_cast<double>(result_.traffic.weight_bytes + result_.traffic.kv_read_bytes +
                                           result_.traffic.kv_write_bytes);
      sample->multiply_adds +=
          work_.per_row * batch_.num_rows() + work_.per_output * static_cast<double>(batch_.output_rows.size());
    }
    return absl::OkStatus();
  }

  absl::Status Fill(int sequence, int tokens, bool output, BenchSample* sample) {
    for (int at = 0; at < tokens; at += kChunkRows) {
      const int count = std::min(kChunkRows, tokens - at);
      RETURN_IF_ERROR(Step({{sequence, at, count, output && at + count == tokens}}, sample));
    }
    return absl::OkStatus();
  }

  absl::Status Prefill(BenchCell* cell) {
    BenchSample sample;
    RETURN_IF_ERROR(Fill(0, cell->tokens, true, &sample));
    sample.tokens = cell->tokens;
    cell->samples.push_back(sample);
    return absl::OkStatus();
  }

  absl::Status Decode(BenchCell* cell) {
    // Token i of a sequence is the same in every cell and its K and V depend on nothing later, so what an earlier cell
    // left in the pages (or writes again) is what this one would compute.
    for (int s = 0; s < cell->batch; ++s) {
      int& filled = filled_[static_cast<size_t>(s)];
      if (filled < cell->depth) {
        RETURN_IF_ERROR(Fill(s, cell->depth, false, nullptr));
        filled = cell->depth;
      }
    }
    BenchSample sample;
    std::vector<Rows> parts;
    for (int t = 0; t < cell->tokens; ++t) {
      parts.clear();
      for (int s = 0; s < cell->batch; ++s) parts.push_back({s, cell->depth + t, 1, true});
      RETURN_IF_ERROR(Step(parts, &sample));
    }
    sample.tokens = static_cast<double>(cell->tokens) * cell->batch;
    cell->samples.push_back(sample);
    return absl::OkStatus();
  }

  EngineBenchOptions options_;
  std::unique_ptr<worker::ModelRunner> runner_;
  std::unique_ptr<kernels::cpu::CpuOps> roof_ops_;
  Work work_;
  int pages_per_sequence_ = 0;
  std::vector<int> filled_;  // [largest batch] tokens of each sequence that the pages hold
  worker::StepBatch batch_;
  worker::StepResult result_;
  BenchReport report_;
};

}  // namespace

int RunEngineBench(const EngineBenchOptions& options, std::ostream& out, std::ostream& err) {
  absl::StatusOr<std::unique_ptr<Bench>> bench = Bench::Create(options);
  if (!bench.ok()) {
    err << "dunlin bench: " << bench.status().message() << "\n";
    return 1;
  }
  const absl::StatusOr<BenchReport> report = (*bench)->Run(err);
  if (!report.ok()) {
    err << "dunlin bench: " << report.status().message() << "\n";
    return 1;
  }
  out << (options.json ? report->Json() : report->Table());
  return 0;
}

}  // namespace dunlin::tools
