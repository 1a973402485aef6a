// One head's vector in the registers of a warp: its norm and its rotation.
// Thread-safety: device code; all 32 lanes call everything here.  Pointers: 16-byte aligned.  head_dim: a multiple of
// 4, at most 128 * kFours.  Errors: none.  Cost: one 16-byte access per four dims.  Source: RoPE (arXiv 2104.09864),
// with the operations of ApplyRope (reference_ops.cc); ours.
#ifndef DUNLIN_KERNELS_CUDA_HEAD_VECTOR_H_
#define DUNLIN_KERNELS_CUDA_HEAD_VECTOR_H_

#include <cstddef>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/four_floats.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cuda {

// One head's vector in a warp: lane l has dims 4 l … 4 l + 3, then those 128 further on, …; zeros past head_dim.
template <int kFours>
struct HeadVector {
  FourFloats x[kFours];
};
DUNLIN_DEV int FirstDim(int i) { return 4 * dev::Lane() + 128 * i; }

template <int kFours>
DUNLIN_DEV HeadVector<kFours> LoadHead(const float* x, int dim) {
  HeadVector<kFours> head;
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) head.x[i] = FirstDim(i) < dim ? LoadFour(x + FirstDim(i)) : NoFloats();
  return head;
}

template <int kFours>
DUNLIN_DEV void StoreHead(const HeadVector<kFours>& head, int dim, float* to) {
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    if (FirstDim(i) < dim) StoreFour(to + FirstDim(i), head.x[i]);
  }
}

template <int kFours>
DUNLIN_DEV void NormHead(const float* norm, float eps, int dim, HeadVector<kFours>* head) {
  float sum = 0.0f;
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) sum = dev::Fma(head->x[i].at[c], head->x[i].at[c], sum);
  }
  const float inverse = dev::Rsqrt(dev::WarpSum(sum) / static_cast<float>(dim) + eps);
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    if (FirstDim(i) >= dim) continue;
    const FourFloats weight = LoadFour(norm + FirstDim(i));
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) head->x[i].at[c] = head->x[i].at[c] * inverse * weight.at[c];
  }
}

// ApplyRope's operations on each pair. shared: room for the head.
template <int kFours>
DUNLIN_DEV void RotateHead(const RopeTable& rope, int position, int dim, float* shared, HeadVector<kFours>* head) {
  if (rope.dims == 0) return;
  const int half = rope.dims / 2;
  const size_t at = static_cast<size_t>(position) * static_cast<size_t>(half);
  const float* cos = rope.cos + at;
  const float* sin = rope.sin + at;
  const bool halves = rope.pairing == RopePairing::kHalves;
  if (halves) {  // the other of a pair is another lane's
    StoreHead(*head, dim, shared);
    dev::SyncWarp();
  }
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    FourFloats turned = head->x[i];
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int d = FirstDim(i) + c;
      if (d >= rope.dims) continue;
      const bool second = halves ? d >= half : c % 2 == 1;
      const int pair = halves ? (second ? d - half : d) : d / 2;
      const float own = head->x[i].at[c];
      const float other = halves ? shared[second ? d - half : d + half] : head->x[i].at[c ^ 1];
      turned.at[c] = second ? other * sin[pair] + own * cos[pair] : own * cos[pair] - other * sin[pair];
    }
    head->x[i] = turned;
  }
  if (halves) dev::SyncWarp();  // before the room is used again
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_HEAD_VECTOR_H_
