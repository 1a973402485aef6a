// Compensated rounding (kv_rounding.h) of one head's vectors, one warp each, the warps of a block together: the rows of
// the feedback pass through shared memory once for all of them. The chain from a value's error to the next value is
// what takes the time, so eight values at a time are handed to every lane, which rounds them one after the other in its
// own registers; what the eight errors do to the values after them is then spread over the lanes. Thread-safety: device
// code; all threads of the block call everything here.  Pointers: the feedback is 16-byte aligned global memory.
// Errors: none.  Cost: about 50 cycles a value; head_dim^2 / 2 multiply-adds a warp and as many floats read a block.
// Source: kv_rounding.h; ours.
#ifndef DUNLIN_KERNELS_CUDA_KV_FEEDBACK_H_
#define DUNLIN_KERNELS_CUDA_KV_FEEDBACK_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/four_floats.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

inline constexpr int kFeedbackGroup = 8;   // rows of the feedback that lie together (KvFeedbackGroupBegin)
inline constexpr int kFeedbackStages = 3;  // groups in shared memory: one in use, two on their way
constexpr size_t FeedbackStageFloats(int head_dim) {
  return static_cast<size_t>(kFeedbackGroup) * static_cast<size_t>(head_dim);
}
constexpr size_t FeedbackSharedBytes(int head_dim) {
  return kFeedbackStages * FeedbackStageFloats(head_dim) * sizeof(float);
}

inline constexpr int kFeedbackThreads = 128;  // of the block
// Copies of a thread for the longest group of heads of up to 128 * kFours dims.
template <int kFours>
inline constexpr int kFeedbackCopies = kFeedbackGroup * 128 * kFours / (4 * kFeedbackThreads);

// The feedback of one head on its way through shared memory. head_dim: a multiple of 16.
struct FeedbackStream {
  const float* next;  // of the group to fetch next
  float* stages;      // shared, FeedbackSharedBytes
  int head_dim;
  int next_group;
};
DUNLIN_DEV float* FeedbackStage(const FeedbackStream& stream, int group) {
  return stream.stages + group % kFeedbackStages * (kFeedbackGroup * stream.head_dim);
}
// One more group, or an empty one past the end, so that the groups on their way can be counted.
template <int kFours>
DUNLIN_DEV void FetchFeedback(FeedbackStream* stream) {
  const int first = stream->next_group * kFeedbackGroup;
  if (first < stream->head_dim) {
    const int floats = kFeedbackGroup * (stream->head_dim - first);
    float* to = FeedbackStage(*stream, stream->next_group);
    DUNLIN_UNROLL
    for (int c = 0; c < kFeedbackCopies<kFours>; ++c) {
      const int i = 4 * (dev::ThreadX() + c * kFeedbackThreads);
      if (i < floats) dev::CopyAsync16(to + i, stream->next + i, true);
    }
    stream->next += floats;
  }
  ++stream->next_group;
  dev::CopyAsyncCommit();
}
template <int kFours>
DUNLIN_DEV FeedbackStream StartFeedback(const float* feedback, float* stages, int head_dim) {
  FeedbackStream stream{feedback, stages, head_dim, 0};
  for (int i = 1; i < kFeedbackStages; ++i) FetchFeedback<kFours>(&stream);
  return stream;
}

// The values that a format can store, in units of its scale: rounding is one addition and one subtraction of a power of
// two whose last place is the value's unit.
struct CodeGrid {
  uint32_t exponent_mask;  // 0: one unit for all values
  uint32_t least;          // bits of eight of the smallest units
  float largest;
};
DUNLIN_DEV CodeGrid GridOf(KvFormat format) {
  if (format == KvFormat::kE4M3) return {0x7F800000u, dev::FloatBits(0x1p-6f), 448.0f};
  return {0u, dev::FloatBits(8.0f), 127.0f};
}
// y to nearest even on the grid, clipped at its ends. The sign of a zero is anything.
DUNLIN_DEV float RoundToGrid(const CodeGrid& grid, float y) {
  y = y > grid.largest ? grid.largest : y;
  y = y < -grid.largest ? -grid.largest : y;
  const uint32_t bits = dev::FloatBits(y);
  uint32_t unit = bits & grid.exponent_mask;
  unit = unit > grid.least ? unit : grid.least;
  // Three bits are kept of the float's 23, so 2^20 times the value's own power of two.
  const float shift = dev::BitsToFloat((unit + (20u << 23)) | (bits & 0x80000000u));
  return (y + shift) - shift;
}

// y: in the order of rounding, lane l has values l, l + 32, …; each becomes the value whose nearest code is the result.
template <int kFours>
DUNLIN_DEV void Compensate(KvFormat format, FeedbackStream stream, float (&y)[4 * kFours]) {
  constexpr int kValues = 4 * kFours;
  const CodeGrid grid = GridOf(format);
  const int dim = stream.head_dim;
  DUNLIN_UNROLL
  for (int m = 0; m < kValues; ++m) {
    // The loop over m is unrolled, so that y stays in registers.
    for (int first = 32 * m; first < 32 * (m + 1) && first < dim; first += kFeedbackGroup) {
      dev::CopyAsyncWait<kFeedbackStages - 2>();
      dev::SyncThreads();  // the group has landed for all, and all are done with the one before it
      FetchFeedback<kFours>(&stream);
      const float* rows = FeedbackStage(stream, first / kFeedbackGroup);
      const int width = dim - first;
      float value[kFeedbackGroup], error[kFeedbackGroup];
      DUNLIN_UNROLL
      for (int i = 0; i < kFeedbackGroup; ++i) value[i] = dev::Shuffle(y[m], first % 32 + i);
      DUNLIN_UNROLL
      for (int i = 0; i < kFeedbackGroup; ++i) {
        error[i] = value[i] - RoundToGrid(grid, value[i]);
        DUNLIN_UNROLL
        for (int half = (i + 1) / 4; half < 2; ++half) {
          const FourFloats weights = LoadFour(rows + i * width + 4 * half);
          DUNLIN_UNROLL
          for (int c = 0; c < 4; ++c) {
            const int j = 4 * half + c;
            if (j > i) value[j] = dev::Fma(error[i], weights.at[c], value[j]);
          }
        }
      }
      DUNLIN_UNROLL
      for (int n = m; n < kValues; ++n) {
        const int place = 32 * n + dev::Lane() - first;
        if (place < 0 || place >= width) continue;
        // A value's own error and those after it meet zeros.
        DUNLIN_UNROLL
        for (int i = 0; i < kFeedbackGroup; ++i) y[n] = dev::Fma(error[i], rows[i * width + place], y[n]);
      }
    }
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_KV_FEEDBACK_H_
