#include "worker/runners/cuda_runner.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "worker/runners/check_batch.h"

namespace dunlin::worker {
namespace {

using kernels::cuda::BatchBucket;
using kernels::cuda::Device;
using kernels::cuda::DeviceBatch;

// The device's events of a step.
int BeginOf(uint64_t step) { return static_cast<int>(step % 2 * 2); }
int EndOf(uint64_t step) { return BeginOf(step) + 1; }

bool HasPrefill(const StepBatch& batch) {
  return std::any_of(batch.sequences.begin(), batch.sequences.end(),
                     [](const kernels::SequenceSlice& s) { return s.num_rows >= kernels::cuda::kPrefillRows; });
}

}  // namespace

CudaRunner::CudaRunner(Parts parts) : p_(std::move(parts)) {}

absl::Status CudaRunner::DeviceStatus() const {
  if (p_.device->ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(p_.info.device, " (", p_.device->info().name, "): ", p_.device->error()));
}

absl::Status CudaRunner::Step(const StepBatch& batch, StepResult* result) {
  const absl::Status status = Submit(batch);
  return status.ok() ? Wait(result) : status;
}

absl::Status CudaRunner::Submit(const StepBatch& batch) {
  CHECK_LT(submitted_ - waited_, in_flight_.size());
  CheckBatch(batch, p_.info);
  InFlight& step = in_flight_[submitted_ % 2];
  p_.device->Record(BeginOf(submitted_));
  RunLayers(batch, &step.result);
  p_.ops->FetchSaturated(p_.scratch.saturated.data() + submitted_ % 2);
  RunOutputs(batch, &step);
  p_.device->Record(EndOf(submitted_));
  ++submitted_;
  return DeviceStatus();
}

absl::Status CudaRunner::Wait(StepResult* result) {
  CHECK_LT(waited_, submitted_);
  Finish(waited_);
  InFlight& step = in_flight_[waited_ % 2];
  step.result.device_time = absl::Seconds(p_.device->Elapsed(BeginOf(waited_), EndOf(waited_)));
  step.result.kv_saturated_values = p_.scratch.saturated.data()[waited_ % 2];
  std::swap(*result, step.result);
  ++waited_;
  return DeviceStatus();
}

void CudaRunner::Finish(uint64_t number) {
  InFlight& step = in_flight_[number % 2];
  p_.device->Wait(EndOf(number));
  if (step.first_unfinished == step.result.outputs.size()) return;
  p_.ops->FinishSample(std::span(step.result.outputs).subspan(step.first_unfinished));
  step.first_unfinished = step.result.outputs.size();
}

bool CudaRunner::CanRecord(const StepBatch& batch) const {
  if (batch.num_rows() > std::min(kMaxGraphRows, p_.largest.rows)) return false;
  return std::all_of(batch.sequences.begin(), batch.sequences.end(), [this](const kernels::SequenceSlice& s) {
    return s.num_rows < kernels::cuda::kPrefillRows && s.context_tokens + s.num_rows <= p_.max_graph_context;
  });
}

void CudaRunner::RunLayers(const StepBatch& batch, StepResult* result) {
  const auto upload = [&](const BatchBucket& bucket) {
    return p_.scratch.batch.Upload(batch.view(), batch.output_rows, batch.token_from_previous, bucket);
  };
  if (!CanRecord(batch)) {
    const DeviceBatch on_device = upload({batch.num_rows(), static_cast<int32_t>(batch.sequences.size()),
                                          static_cast<int32_t>(batch.output_rows.size())});
    result->graph = GraphUse::kEager;
    result->traffic = Forward(batch, on_device, HasPrefill(batch), /*launch=*/true);
    return;
  }
  const auto rounded = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(batch.num_rows())));
  const int32_t rows = std::min(rounded, p_.largest.rows);
  const DeviceBatch on_device = upload({rows, std::min(rows, p_.largest.sequences), rows});
  Graph& graph = graphs_.try_emplace(rows, Graph::kUnknown).first->second;
  result->graph = graph == Graph::kUnknown ? GraphUse::kEager
                  : graph == Graph::kSeen  ? GraphUse::kRecorded
                                           : GraphUse::kReplayed;
  if (graph == Graph::kUnknown) {
    graph = Graph::kSeen;
    result->traffic = Forward(batch, on_device, /*has_prefill=*/false, /*launch=*/true);
    return;
  }
  if (graph == Graph::kSeen) {
    p_.device->BeginCapture();
    Forward(batch, on_device, /*has_prefill=*/false, /*launch=*/true);
    const int id = p_.device->EndCapture();
    if (id < 0) return;  // the device says why
    graph = static_cast<Graph>(id);
  }
  p_.device->LaunchGraph(static_cast<int>(graph));
  result->traffic = Forward(batch, on_device, /*has_prefill=*/false, /*launch=*/false);  // while the device works
}

kernels::Traffic CudaRunner::Forward(const StepBatch& batch, const DeviceBatch& on_device, bool has_prefill,
                                     bool launch) {
  const kernels::BatchView view = batch.view();
  p_.ops->BeginStep({on_device, view, batch.output_rows, has_prefill, launch}, p_.network.attention, p_.kv);
  const Scratch& s = p_.scratch;
  int64_t counted_on_the_device = 0;
  return ForwardStep(*p_.ops, p_.network, p_.weights, view, p_.kv,
                     {s.x.data(), s.q.data(), s.attn.data(), s.ffn.data()}, batch.output_rows, &counted_on_the_device);
}

void CudaRunner::RunOutputs(const StepBatch& batch, InFlight* step) {
  const std::span<const int32_t> rows(batch.output_rows);
  const std::span<const kernels::SampleParams> params(batch.sample_params);
  const auto chunk = static_cast<size_t>(p_.ops->limits().max_outputs);
  StepResult& result = step->result;
  result.outputs.resize(rows.size());
  step->first_unfinished = 0;
  // Draws are finished in their order.
  if (rows.size() > chunk && waited_ < submitted_) Finish(waited_);
  for (size_t at = 0; at < rows.size(); at += chunk) {
    const size_t n = std::min(chunk, rows.size() - at);
    result.traffic += p_.ops->Logits(p_.weights.head(), p_.weights.output_norm.data(), p_.network.eps,
                                     rows.subspan(at, n), p_.scratch.x.data(), p_.scratch.logits.data());
    result.traffic += p_.ops->StartSample(p_.scratch.logits.data(), p_.network.vocab, params.subspan(at, n), at);
    if (at + n == rows.size()) break;
    p_.device->Synchronize();
    p_.ops->FinishSample(std::span(result.outputs).subspan(at, n));
    step->first_unfinished = at + n;
  }
}

absl::Status CudaRunner::MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) {
  using Kind = kv::PageMove::Kind;
  failed_pages->clear();
  const auto check = [this](int32_t id) { CHECK(id >= 0 && id < p_.info.num_pages) << "page " << id; };
  while (!moves.empty()) {
    // A run of one kind: what follows may use what it wrote.
    const Kind kind = moves.front().kind;
    CHECK(kind == Kind::kCopy || p_.swap != nullptr) << "a move to a host tier that is not there";
    size_t run = 1;
    while (run < moves.size() && moves[run].kind == kind && run < kStagedPages) ++run;
    for (const kv::PageMove& m : moves.first(run)) {
      if (kind != Kind::kRestore) check(m.from);
      if (kind != Kind::kSave) check(m.to);
    }
    switch (kind) {
      case Kind::kCopy:
        for (const kv::PageMove& m : moves.first(run)) {
          p_.device->CopyOnDevice(p_.kv.page(m.to), p_.kv.page(m.from), p_.kv.layout.page_bytes);
        }
        break;
      case Kind::kSave:
        SavePages(moves.first(run));
        break;
      case Kind::kRestore:
        RestorePages(moves.first(run), failed_pages);
        break;
    }
    moves = moves.subspan(run);
  }
  return DeviceStatus();
}

void CudaRunner::SavePages(std::span<const kv::PageMove> moves) {
  const size_t bytes = p_.kv.layout.page_bytes;
  for (size_t i = 0; i < moves.size(); ++i) p_.device->CopyToHost(Staged(i), p_.kv.page(moves[i].from), bytes);
  p_.device->Synchronize();
  if (!p_.device->ok()) return;
  for (size_t i = 0; i < moves.size(); ++i) {
    // A record that could not be written holds nothing, which its kRestore finds.
    p_.swap->Save(moves[i].to, {Staged(i), bytes}).IgnoreError();
  }
}

void CudaRunner::RestorePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) {
  const size_t bytes = p_.kv.layout.page_bytes;
  for (size_t i = 0; i < moves.size(); ++i) {
    if (p_.swap->Load(moves[i].from, {Staged(i), bytes}).ok()) {
      p_.device->CopyToDevice(p_.kv.page(moves[i].to), Staged(i), bytes);
    } else {
      failed_pages->push_back(moves[i].to);
    }
  }
  p_.device->Synchronize();
}

absl::Status CudaRunner::WarmUp() {
  const int32_t page = 0;
  StepResult result;
  for (const int rows : {1, kernels::cuda::kPrefillRows}) {
    if (rows > std::min({p_.info.max_rows, p_.info.max_model_len, p_.info.page_tokens})) continue;
    StepBatch batch;
    for (int i = 0; i < rows; ++i) {
      batch.token_ids.push_back(0);
      batch.positions.push_back(i);
    }
    batch.sequences.push_back({0, rows, 0, &page});
    batch.output_rows.push_back(rows - 1);
    batch.sample_params.emplace_back();
    const absl::Status status = Step(batch, &result);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::span<const float> CudaRunner::TEST_logits() {
  test_logits_.resize(p_.scratch.logits.size());
  p_.device->CopyToHost(test_logits_.data(), p_.scratch.logits.data(), p_.scratch.logits.bytes());
  p_.device->Synchronize();
  return test_logits_;
}

std::vector<uint8_t> CudaRunner::TEST_page(int32_t id) {
  std::vector<uint8_t> bytes(p_.kv.layout.page_bytes);
  p_.device->CopyToHost(bytes.data(), p_.kv.page(id), bytes.size());
  p_.device->Synchronize();
  return bytes;
}

}  // namespace dunlin::worker
