#include "worker/runners/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_ops.h"
#include "model/model_config.h"
#include "worker/kv_rounding/prepare.h"
#include "worker/runners/create_runner.h"
#include "worker/runners/cuda_runner.h"
#include "worker/runners/device_memory.h"

namespace dunlin::worker {
namespace {

using kernels::cuda::CudaOps;
using kernels::cuda::Device;
using kernels::cuda::DeviceBatchBuffer;
using kernels::cuda::DeviceBuffer;

double Mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// A model and its options, resolved, in this backend's terms.
struct Shape {
  model::ModelConfig config;
  RunnerOptions options;
  Network network;  // without pointers
  kernels::PageLayout layout;
  kernels::OpLimits limits;
  DeviceBatchBuffer::Limits batch;
};

// What the kernels lack, by the name of the flag that asks for it.
absl::Status CheckSupported(const Shape& s) {
  if (s.options.attention_top_pages > 0) {
    return absl::UnimplementedError(
        absl::StrFormat("--attention-top-pages %d: the CUDA backend reads every page; use 0, or --device cpu",
                        s.options.attention_top_pages));
  }
  if (s.options.page_tokens % 16 != 0) {
    return absl::UnimplementedError(
        absl::StrFormat("--block-size %d: allowed on a CUDA device are 16, 32 and 64", s.options.page_tokens));
  }
  if (const char* const what = kernels::cuda::AttentionUnsupported(s.network.attention, s.layout)) {
    return absl::UnimplementedError(
        absl::StrFormat("--device: the CUDA backend has no attention for %s (%d query heads, %d KV heads of %d "
                        "values); use --device cpu",
                        what, s.config.num_q_heads, s.config.num_kv_heads, s.config.head_dim));
  }
  return absl::OkStatus();
}

absl::StatusOr<Shape> ResolveShape(const model::ModelFile& file, RunnerOptions options) {
  Shape s;
  ASSIGN_OR_RETURN(s.config, model::ParseModelConfig(file.gguf()));
  RETURN_IF_ERROR(ResolveOptions(s.config, &options));
  s.options = std::move(options);
  const RunnerOptions& o = s.options;
  s.network = DescribeNetwork(s.config);
  s.network.attention.window = o.attention_window;
  s.network.attention.sinks = o.attention_sinks;
  s.layout = kernels::PageLayout::Create(o.page_tokens, s.config.num_layers, s.config.num_kv_heads, s.config.head_dim,
                                         o.k_format, o.v_format, /*key_bounds=*/false, kernels::SlabOrder::kDevice);
  RETURN_IF_ERROR(CheckSupported(s));
  const int sequences = std::clamp(o.max_num_seqs, 1, o.max_rows);
  s.limits.max_rows = o.max_rows;
  // A row of logits is large: room for one per sequence, up to a limit; prompt logprobs take turns.
  s.limits.max_outputs = std::min(sequences, CudaRunner::kMaxGraphRows);
  s.limits.max_context = o.max_model_len;
  s.limits.hidden = s.network.hidden;
  s.limits.ffn = s.network.ffn;
  s.limits.vocab = s.network.vocab;
  s.limits.attention = s.network.attention;
  s.batch.largest = {o.max_rows, sequences, o.max_rows};
  s.batch.pages_per_sequence = (o.max_model_len + o.page_tokens - 1) / o.page_tokens;
  s.batch.page_tokens = o.page_tokens;
  return s;
}

struct ScratchValues {
  size_t x, q, ffn, logits;  // floats
};
ScratchValues ScratchValuesOf(const Shape& s) {
  const auto rows = static_cast<size_t>(s.limits.max_rows);
  const auto width = [](int n) { return static_cast<size_t>(n); };
  return {rows * width(s.network.hidden), rows * width(s.config.num_q_heads) * width(s.config.head_dim),
          rows * width(s.network.ffn), width(s.limits.max_outputs) * width(s.network.vocab)};
}

uint64_t RopeBytes(const Shape& s) {
  return static_cast<uint64_t>(s.options.max_model_len) * static_cast<uint64_t>(s.config.rope_dims) * sizeof(float);
}

// Of everything but weights, tables of the rounding, and pages.
uint64_t ScratchBytes(const Shape& s, const Device& device) {
  const ScratchValues n = ScratchValuesOf(s);
  return CudaOps::ScratchBytes(device, s.limits, s.batch.largest.sequences) +
         (n.x + 2 * n.q + n.ffn + n.logits) * sizeof(float) + DeviceBatchBuffer::Bytes(s.batch) + RopeBytes(s);
}

CudaRunner::Scratch MakeScratch(const Shape& s, Device* device) {
  const ScratchValues n = ScratchValuesOf(s);
  const auto floats = [device](size_t count) { return DeviceBuffer<float>(device, count); };
  return {floats(n.x),
          floats(n.q),
          floats(n.q),
          floats(n.ffn),
          floats(n.logits),
          DeviceBatchBuffer(device, s.batch),
          kernels::cuda::PinnedBuffer<uint32_t>(device, 2)};
}

// coming_bytes: of weights and scratch, what is not allocated yet; held_bytes: all of them.
absl::StatusOr<KvPoolPlan> PlanPool(const Shape& s, Device* device, uint64_t held_bytes, uint64_t coming_bytes) {
  const kernels::cuda::DeviceInfo& info = device->info();
  const uint64_t free = device->FreeBytes();
  if (!device->ok()) return absl::UnavailableError(absl::StrCat(info.name, ": ", device->error()));
  HostMemory host;
  if (info.unified_memory) {
    if (const absl::StatusOr<HostMemory> read = ReadHostMemory(); read.ok()) host = *read;
  }
  KvPoolRequest request = PoolRequest(s.options, s.layout);
  request.other_bytes = held_bytes;
  if (info.unified_memory && s.options.swap_directory.empty()) {
    request.other_bytes += s.options.swap_bytes;
    coming_bytes += s.options.swap_bytes;
  }
  return PlanDevicePages(request,
                         PlannableMemory({info.name, info.total_bytes, free, info.unified_memory}, host, coming_bytes));
}

// The model's calibration as it is kept or, once per model, measured on the CPU: its statistics are the host's.
KvRoundingTables MakeKvRounding(const model::ModelFile& file, const Shape& s) {
  const RunnerOptions& o = s.options;
  if (o.kv_rounding == KvRoundingMode::kNearest) return {};
  const auto measure = [&]() -> absl::StatusOr<KvCalibration> {
    std::string error;
    const std::optional<kernels::cpu::Isa> isa = kernels::cpu::SelectIsa(std::getenv("DUNLIN_ISA"), &error);
    if (!isa.has_value()) return absl::InvalidArgumentError(absl::StrCat("DUNLIN_ISA: ", error));
    kernels::cpu::CpuOps ops(o.threads > 0 ? o.threads : UsableCores(), *isa);
    ASSIGN_OR_RETURN(const WeightsOf<kernels::cpu::CpuOps> weights,
                     WeightLoader<kernels::cpu::CpuOps>(&ops, &file, {}).Load(s.config));
    return MeasureCalibration(file, s.config, &ops, weights);
  };
  return LoadOrMeasureKvRounding(file, s.config, {o.kv_rounding, o.k_format, o.v_format}, o.say, measure);
}

std::vector<kernels::KvRounding> UploadRounding(const KvRoundingTables& tables, const model::ModelConfig& config,
                                                CudaOps* ops) {
  const auto heads = static_cast<size_t>(config.num_kv_heads);
  const auto values = heads * static_cast<size_t>(config.head_dim);
  const auto upload = [ops]<typename T>(const T** p, size_t count) {
    if (*p != nullptr) *p = ops->UploadArray(std::span<const T>(*p, count));
  };
  std::vector<kernels::KvRounding> layers = tables.Layers();
  for (kernels::KvRounding& layer : layers) {
    for (kernels::KvVectorRounding* r : {&layer.k, &layer.v}) {
      upload(&r->centre, values);
      upload(&r->order, values);
      upload(&r->feedback, heads * kernels::KvFeedbackValues(config.head_dim));
    }
  }
  return layers;
}

// Bytes per second of a copy on the device, read and written, past its caches; 0 where there is no room to measure.
double MeasureCopyBandwidth(Device* device) {
  constexpr int kRepeats = 5;
  constexpr size_t kAtMost = size_t{256} << 20;
  const size_t bytes = std::min(
      {kAtMost, std::max(4 * device->info().l2_bytes, size_t{16} << 20), static_cast<size_t>(device->FreeBytes() / 4)});
  const DeviceBuffer<uint8_t> from(device, bytes), to(device, bytes);
  if (from.data() == nullptr || to.data() == nullptr) return 0;
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    device->Record(0);
    device->CopyOnDevice(to.data(), from.data(), bytes);
    device->Record(1);
    const double seconds = device->Elapsed(0, 1);
    if (seconds > 0) best = std::max(best, 2 * static_cast<double>(bytes) / seconds);
  }
  return best;
}

// Of bringing a page back from the host tier: the tier's own part is in info; the copy to the device comes on top.
double WithCopyToDevice(double bytes_per_second, const CudaRunner::Parts& parts) {
  const size_t bytes = parts.kv.layout.page_bytes;
  parts.device->CopyToDevice(parts.kv.page(0), parts.staged.data(), bytes);  // the first one pays for the path
  parts.device->Record(0);
  parts.device->CopyToDevice(parts.kv.page(0), parts.staged.data(), bytes);
  parts.device->Record(1);
  const double copy_seconds = parts.device->Elapsed(0, 1);
  return static_cast<double>(bytes) / (static_cast<double>(bytes) / bytes_per_second + copy_seconds);
}

absl::Status OutOfMemory(const Device& device, const char* what, uint64_t bytes) {
  return absl::ResourceExhaustedError(absl::StrFormat("%s has no room for %s of %.1f MiB (it has %.1f MiB in all)",
                                                      device.info().name, what, Mib(bytes),
                                                      Mib(device.info().total_bytes)));
}

// Weights, tables and scratch: what lies beside the pages. Fills in its part of parts.
absl::Status LoadBesidePages(const model::ModelFile& file, const Shape& s, const KvRoundingTables& rounding,
                             CudaRunner::Parts* parts) {
  Device* const device = parts->device.get();
  parts->ops = std::make_unique<CudaOps>(device, s.batch.largest.sequences);
  CudaOps* const ops = parts->ops.get();
  ASSIGN_OR_RETURN(parts->weights, WeightLoader<CudaOps>(ops, &file, s.options.progress).Load(s.config));
  parts->info.weight_bytes = ops->packed_bytes();
  parts->network = s.network;
  const RopeAngles angles = ComputeRopeAngles(s.config, s.options.max_model_len);
  parts->network.rope = angles.Table(s.config);
  parts->network.rope.cos = ops->Upload(angles.cos).data();
  parts->network.rope.sin = ops->Upload(angles.sin).data();
  parts->network.kv_rounding = UploadRounding(rounding, s.config, ops);
  ops->Reserve(s.limits);
  parts->scratch = MakeScratch(s, device);
  parts->largest = s.batch.largest;
  if (!device->ok()) return absl::UnavailableError(absl::StrCat(device->info().name, ": ", device->error()));
  if (ops->out_of_memory() || !parts->scratch.ok()) {
    return OutOfMemory(*device, "tables and scratch", ScratchBytes(s, *device));
  }
  return absl::OkStatus();
}

absl::Status AllocatePages(const Shape& s, int32_t num_pages, CudaRunner::Parts* parts) {
  Device* const device = parts->device.get();
  parts->info.num_pages = num_pages;
  parts->pages = DeviceBuffer<uint8_t>(device, static_cast<size_t>(num_pages) * s.layout.page_bytes);
  parts->kv = {parts->pages.data(), s.layout, num_pages};
  if (parts->pages.data() == nullptr) {
    return OutOfMemory(*device, "KV pages", static_cast<uint64_t>(num_pages) * s.layout.page_bytes);
  }
  ASSIGN_OR_RETURN(parts->swap, CreateSwap(s.options, s.layout, &parts->info));
  if (parts->swap == nullptr) return absl::OkStatus();
  const size_t staged = CudaRunner::kStagedPages * s.layout.page_bytes;
  parts->staged = kernels::cuda::PinnedBuffer<uint8_t>(device, staged);
  if (parts->staged.data() == nullptr) return OutOfMemory(*device, "pinned host memory", staged);
  double& bandwidth = parts->info.host_bandwidth_bytes_per_second;
  if (bandwidth > 0) bandwidth = WithCopyToDevice(bandwidth, *parts);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaRunner(const model::ModelFile& file, RunnerOptions options,
                                                              std::unique_ptr<Device> device) {
  ASSIGN_OR_RETURN(const Shape s, ResolveShape(file, std::move(options)));
  // Refuse before the long part: a pool that cannot fit beside the file's own size never will.
  const uint64_t expected = file.file_bytes() + ScratchBytes(s, *device);
  RETURN_IF_ERROR(PlanPool(s, device.get(), expected, expected).status());

  const KvRoundingTables rounding = MakeKvRounding(file, s);
  CudaRunner::Parts parts;
  parts.device = std::move(device);
  RunnerInfo& info = parts.info;
  info.device = absl::StrCat("cuda:", parts.device->info().ordinal);
  info.isa = absl::StrCat("sm_", parts.device->info().compute_capability);
  info.kv_rounding_id = rounding.id();
  info.vocab_size = s.config.vocab_size;
  info.max_model_len = s.options.max_model_len;
  info.page_tokens = s.options.page_tokens;
  info.page_bytes = s.layout.page_bytes;
  info.max_rows = s.options.max_rows;
  info.max_steps_in_flight = 2;
  RETURN_IF_ERROR(LoadBesidePages(file, s, rounding, &parts));
  if (s.options.measure_bandwidth) {
    info.peak_bandwidth_bytes_per_second = MeasureCopyBandwidth(parts.device.get());
  }
  const uint64_t held = parts.ops->packed_bytes() + ScratchBytes(s, *parts.device);
  ASSIGN_OR_RETURN(const KvPoolPlan plan, PlanPool(s, parts.device.get(), held, /*coming_bytes=*/0));
  RETURN_IF_ERROR(AllocatePages(s, plan.pages, &parts));
  if (!s.options.enforce_eager) {
    parts.max_graph_context = s.options.max_graph_context > 0 ? s.options.max_graph_context : s.options.max_model_len;
  }
  auto runner = std::make_unique<CudaRunner>(std::move(parts));
  RETURN_IF_ERROR(runner->WarmUp());
  return runner;
}

absl::StatusOr<RunnerPlan> PlanCudaRunner(const model::ModelFile& file, RunnerOptions options, Device* device) {
  ASSIGN_OR_RETURN(const Shape s, ResolveShape(file, std::move(options)));
  RunnerPlan plan;
  plan.weight_bytes = file.file_bytes();
  plan.scratch_bytes = ScratchBytes(s, *device);
  const uint64_t beside = plan.weight_bytes + plan.scratch_bytes;
  ASSIGN_OR_RETURN(plan.pool, PlanPool(s, device, beside, beside));
  plan.device = absl::StrCat("cuda:", device->info().ordinal, " (", device->info().name, ")");
  plan.page_bytes = s.layout.page_bytes;
  plan.max_model_len = s.options.max_model_len;
  if (s.options.swap_bytes != 0) plan.host_slots = SwapArena::SlotsIn(s.options.swap_bytes, s.layout.page_bytes);
  return plan;
}

}  // namespace dunlin::worker
