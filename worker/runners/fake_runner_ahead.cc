// The steps that a FakeRunner has in flight.
#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "base/check.h"
#include "worker/runners/fake_runner.h"

namespace dunlin::worker {
namespace {

// Copies what `span` points to behind *pool, which has the room, and points it there.
template <typename T>
void Keep(std::span<const T>* span, std::vector<T>* pool) {
  const size_t at = pool->size();
  CHECK_LE(at + span->size(), pool->capacity());
  pool->insert(pool->end(), span->begin(), span->end());
  *span = std::span<const T>(*pool).subspan(at, span->size());
}

}  // namespace

void FakeRunner::HeldStep::Hold(const StepBatch& from, int page_tokens) {
  std::vector<int32_t> kept = std::move(batch.page_ids);
  batch = from;
  batch.page_ids = std::move(kept);
  executed = false;
  const auto pages_of = [page_tokens](const kernels::SequenceSlice& s) {
    return static_cast<size_t>((s.context_tokens + s.num_rows + page_tokens - 1) / page_tokens);
  };
  size_t pages = 0, num_penalties = 0, num_biases = 0, num_allowed = 0, num_banned = 0;
  for (const kernels::SequenceSlice& s : batch.sequences) pages += pages_of(s);
  for (const kernels::SampleParams& p : batch.sample_params) {
    num_penalties += p.penalty_tokens.size();
    num_biases += p.biases.size();
    num_allowed += p.allowed.size();
    num_banned += p.banned.size();
  }
  batch.page_ids.clear();
  batch.page_ids.reserve(pages);
  penalties.clear();
  penalties.reserve(num_penalties);
  biases.clear();
  biases.reserve(num_biases);
  allowed.clear();
  allowed.reserve(num_allowed);
  banned.clear();
  banned.reserve(num_banned);
  for (kernels::SequenceSlice& s : batch.sequences) {
    const size_t at = batch.page_ids.size();
    batch.page_ids.insert(batch.page_ids.end(), s.pages, s.pages + pages_of(s));
    s.pages = batch.page_ids.data() + at;
  }
  for (kernels::SampleParams& p : batch.sample_params) {
    Keep(&p.penalty_tokens, &penalties);
    Keep(&p.biases, &biases);
    Keep(&p.allowed, &allowed);
    Keep(&p.banned, &banned);
  }
}

absl::Status FakeRunner::Submit(const StepBatch& batch) {
  CHECK_LT(num_held_, static_cast<size_t>(options_.max_steps_in_flight));
  HeldStep& step = held_[num_held_++];
  step.Hold(batch, options_.page_tokens);
  for (const int32_t output : step.batch.token_from_previous) CHECK(output < 0 || num_held_ == 2) << output;
  return options_.executes_at_submit && options_.executes_at_submit() ? ExecuteAll() : absl::OkStatus();
}

absl::Status FakeRunner::Wait(StepResult* result) {
  CHECK_GT(num_held_, 0u);
  absl::Status status = Execute(&held_[0]);
  std::swap(*result, held_[0].result);
  std::swap(held_[0], held_[1]);
  --num_held_;
  return status;
}

absl::Status FakeRunner::ExecuteAll() {
  for (size_t i = 0; i < num_held_; ++i) {
    if (absl::Status status = Execute(&held_[i]); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status FakeRunner::Execute(HeldStep* step) {
  if (step->executed) return absl::OkStatus();
  step->executed = true;
  StepBatch& batch = step->batch;
  if (!batch.token_from_previous.empty()) {
    CHECK_EQ(batch.token_from_previous.size(), batch.token_ids.size());
    for (size_t row = 0; row < batch.token_ids.size(); ++row) {
      const int32_t output = batch.token_from_previous[row];
      CHECK_EQ(output >= 0, batch.token_ids[row] < 0) << "row " << row;
      if (output >= 0) batch.token_ids[row] = last_drawn_.at(static_cast<size_t>(output));
    }
  }
  const absl::Status status = Run(batch, &step->result);
  last_drawn_.clear();
  for (const kernels::SampleResult& r : step->result.outputs) last_drawn_.push_back(r.token);
  return status;
}

}  // namespace dunlin::worker
