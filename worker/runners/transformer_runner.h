// A ModelRunner over any backend that satisfies TransformerOps: weights, page memory, scratch, one Step.
// Thread-safety: engine thread only.  Owns: the Ops, weights, KV arena, swap arena, scratch.  Errors: as ModelRunner; a
// batch that contradicts the limits is our own bug and CHECK-fails.  Cost: no allocation after the first step of each
// shape.
#ifndef DUNLIN_WORKER_RUNNERS_TRANSFORMER_RUNNER_H_
#define DUNLIN_WORKER_RUNNERS_TRANSFORMER_RUNNER_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "worker/kv_rounding/rounding_tables.h"
#include "worker/model_runner.h"
#include "worker/runners/check_batch.h"
#include "worker/runners/kv_arena.h"
#include "worker/runners/swap_arena.h"
#include "worker/transformer.h"
#include "worker/weights.h"

namespace dunlin::worker {

template <kernels::TransformerOps Ops>
class TransformerRunner final : public ModelRunner {
 public:
  // Logits rows computed at a time: bounds the logits buffer when prompt logprobs ask for every row.
  static constexpr int kOutputChunk = 64;

  struct Parts {
    std::unique_ptr<Ops> ops;
    WeightsOf<Ops> weights;
    Network network;  // rope pointers are set by the runner
    RopeAngles rope;
    KvRoundingTables kv_rounding;  // what network.kv_rounding points into
    KvArena arena;
    std::unique_ptr<SwapArena> swap;  // nullptr = no host tier
    RunnerInfo info;
  };

  explicit TransformerRunner(Parts parts) : p_(std::move(parts)) {
    const auto rows = static_cast<size_t>(p_.info.max_rows);
    const auto width = [rows](int n) { return rows * static_cast<size_t>(n); };
    const Network& net = p_.network;
    const int q_width = net.attention.num_q_heads * net.attention.head_dim;
    x_ = Untouched(width(net.hidden));
    q_ = Untouched(width(q_width));
    attn_ = Untouched(width(q_width));
    ffn_ = Untouched(width(net.ffn));
    const int outputs = std::min(kOutputChunk, p_.info.max_rows);
    logits_ = Untouched(static_cast<size_t>(outputs) * static_cast<size_t>(net.vocab));
    kernels::OpLimits limits;
    limits.max_rows = p_.info.max_rows;
    limits.max_outputs = outputs;
    limits.max_context = p_.info.max_model_len;
    limits.hidden = net.hidden;
    limits.ffn = net.ffn;
    limits.vocab = net.vocab;
    limits.attention = net.attention;
    p_.ops->Reserve(limits);
  }

  const RunnerInfo& info() const override { return p_.info; }

  absl::Status Step(const StepBatch& batch, StepResult* result) override {
    CheckBatch(batch, p_.info);
    const absl::Time begin = Clock::Real()->Now();
    result->kv_saturated_values = 0;
    const kernels::BatchView view = batch.view();
    const std::span<const int32_t> rows(batch.output_rows);
    result->traffic = ForwardStep(*p_.ops, p_.network, p_.weights, view, p_.arena.view(),
                                  {x_.get(), q_.get(), attn_.get(), ffn_.get()}, rows, &result->kv_saturated_values);
    const std::span<const kernels::SampleParams> params(batch.sample_params);
    result->outputs.resize(rows.size());
    for (size_t at = 0; at < rows.size(); at += kOutputChunk) {
      const size_t n = std::min<size_t>(kOutputChunk, rows.size() - at);
      result->traffic += p_.ops->Logits(p_.weights.head(), p_.weights.output_norm.data(), p_.network.eps,
                                        rows.subspan(at, n), x_.get(), logits_.get());
      result->traffic += p_.ops->Sample(logits_.get(), p_.network.vocab, params.subspan(at, n),
                                        std::span(result->outputs).subspan(at, n));
    }
    result->device_time = Clock::Real()->Now() - begin;
    return absl::OkStatus();
  }

  absl::Status MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) override {
    worker::MovePages(p_.arena.view(), p_.swap.get(), moves, failed_pages);
    return absl::OkStatus();
  }

  // For tests: the logits of the last chunk of the last step, [outputs in it, vocab]; and the residual stream [rows,
  // hidden].
  std::span<const float> TEST_logits() const {
    const auto rows = static_cast<size_t>(std::min(kOutputChunk, p_.info.max_rows));
    return {logits_.get(), rows * static_cast<size_t>(p_.network.vocab)};
  }
  std::span<const float> TEST_residual() const {
    return {x_.get(), static_cast<size_t>(p_.info.max_rows) * static_cast<size_t>(p_.network.hidden)};
  }

 private:
  // Not zeroed: rows that no step has had stay memory that the system has not given yet. Every op writes a row before
  // another reads it.
  using Scratch = std::unique_ptr<float[]>;
  static Scratch Untouched(size_t values) { return std::make_unique_for_overwrite<float[]>(values); }

  Parts p_;
  Scratch x_, q_, attn_, ffn_, logits_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_TRANSFORMER_RUNNER_H_
