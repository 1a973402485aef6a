// A backend that hands every row's queries and keys to KvStatistics as they pass: the network (transformer.h)
// runs on it as on the backend itself. Its pages are f32, so that keys are read back as computed.
// Thread-safety, errors: as the backend.  Borrows: both.  Cost: the statistics' on top of the backend's.  Source: ours.
#ifndef DUNLIN_WORKER_KV_ROUNDING_OBSERVED_OPS_H_
#define DUNLIN_WORKER_KV_ROUNDING_OBSERVED_OPS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "worker/kv_rounding/statistics.h"

namespace dunlin::worker {

template <kernels::TransformerOps Ops>
class ObservedOps {
 public:
  using Matrix = typename Ops::Matrix;
  ObservedOps(Ops* ops, KvStatistics* statistics) : ops_(ops), statistics_(statistics) {}

  Matrix Pack(kernels::DType type, int rows, int cols, std::span<const uint8_t> bytes) {
    return ops_->Pack(type, rows, cols, bytes);
  }
  void Reserve(const kernels::OpLimits& limits) { ops_->Reserve(limits); }
  kernels::Traffic Embed(const Matrix& table, const kernels::BatchView& batch, float scale, float* x) {
    return ops_->Embed(table, batch, scale, x);
  }
  kernels::Traffic AttentionInput(const kernels::AttentionInputArgs<Matrix>& args, const kernels::AttentionShape& shape,
                                  const kernels::BatchView& batch, const kernels::PagedKvView& kv, const float* x,
                                  float* q, int64_t* saturated) {
    const kernels::Traffic traffic = ops_->AttentionInput(args, shape, batch, kv, x, q, saturated);
    const size_t dim = static_cast<size_t>(shape.head_dim), width = static_cast<size_t>(shape.num_kv_heads) * dim;
    std::vector<float> k(width);
    for (const kernels::SequenceSlice& s : batch.sequences) {
      for (int32_t i = 0; i < s.num_rows; ++i) {
        const int token = s.context_tokens + i, slot = token % kv.layout.page_tokens;
        const uint8_t* page = kv.page(s.pages[token / kv.layout.page_tokens]);
        for (int h = 0; h < shape.num_kv_heads; ++h) {
          kernels::ReadKey(kv.layout, page, args.layer, h, slot, &k[static_cast<size_t>(h) * dim]);
        }
        const size_t row = static_cast<size_t>(s.first_row + i);
        statistics_->AddToken(args.layer, token, q + row * static_cast<size_t>(shape.num_q_heads) * dim, k.data());
      }
    }
    return traffic;
  }
  kernels::Traffic PagedAttention(const kernels::AttentionShape& shape, const kernels::BatchView& batch,
                                  const kernels::PagedKvView& kv, int layer, const float* q, float* out) {
    return ops_->PagedAttention(shape, batch, kv, layer, q, out);
  }
  kernels::Traffic ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual) {
    return ops_->ProjectAdd(w, num_rows, in, residual);
  }
  kernels::Traffic GatedFfn(const Matrix& gate, const Matrix& up, const float* norm, float eps,
                            kernels::FfnActivation activation, int num_rows, const float* x, float* out) {
    return ops_->GatedFfn(gate, up, norm, eps, activation, num_rows, x, out);
  }
  kernels::Traffic Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows,
                          const float* x, float* logits) {
    return ops_->Logits(head, norm, eps, rows, x, logits);
  }
  kernels::Traffic Sample(const float* logits, int vocab, std::span<const kernels::SampleParams> params,
                          std::span<kernels::SampleResult> results) {
    return ops_->Sample(logits, vocab, params, results);
  }

 private:
  Ops* ops_;
  KvStatistics* statistics_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_OBSERVED_OPS_H_
