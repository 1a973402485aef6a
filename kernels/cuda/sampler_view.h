// The tokens of a row that may still be drawn, and their order as a 64-bit number, the first to draw lowest: (bin of
// the log-probability, key), or (distance to the mean surprise, key) for typical-p. The bins are linear between the
// most and the least likely token, so that the atomics of a histogram of the first bits spread over it. Tokens of one
// order have one mass, and follow each other by id. Thread-safety, errors: pure functions.  Owns: nothing.  Source:
// ours.
#ifndef DUNLIN_KERNELS_CUDA_SAMPLER_VIEW_H_
#define DUNLIN_KERNELS_CUDA_SAMPLER_VIEW_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/sampler_numbers.h"

namespace dunlin::kernels::cuda::sampler {

inline constexpr int kThreads = 512;
inline constexpr int kDigitBits = 10;  // of an order, per histogram
inline constexpr int kBins = 1 << kDigitBits;

// A place in the order from the most likely token down, lower id first on ties.
struct Cut {
  uint32_t key;
  int32_t id;
};
DUNLIN_DEV bool Within(const Cut& cut, uint32_t key, int32_t id) {
  return key > cut.key || (key == cut.key && id <= cut.id);
}

// The tokens that may still be drawn, in an order.
struct View {
  const float* row;
  int vocab;
  Scale scale;
  float bins_per_log2;
  Cut cut;           // the last that is kept
  bool typical;      // keep but those within `distance` of the mean surprise; at it, those up to `tie`
  bool by_distance;  // the order
  uint32_t mean, distance;
  Cut tie;
};

DUNLIN_DEV uint32_t DistanceOf(const View& v, uint32_t key) {
  const uint32_t surprise = SurpriseOf(v.scale, key);
  return surprise > v.mean ? surprise - v.mean : v.mean - surprise;
}
DUNLIN_DEV bool IsMember(const View& v, uint32_t key, int32_t id) {
  if (!Within(v.cut, key, id)) return false;
  if (!v.typical) return true;
  const uint32_t distance = DistanceOf(v, key);
  return distance < v.distance || (distance == v.distance && Within(v.tie, key, id));
}
DUNLIN_DEV int OrderBits(const View& v) { return v.by_distance ? 63 : 32 + kDigitBits; }
DUNLIN_DEV uint64_t OrderOf(const View& v, uint32_t key) {
  uint32_t first = 0;
  if (v.by_distance) {
    first = DistanceOf(v, key);
  } else {
    const float bin = -RoundedLog2(v.scale, key) * v.bins_per_log2;
    first = bin < static_cast<float>(kBins - 1) ? static_cast<uint32_t>(bin) : kBins - 1;
  }
  return uint64_t{first} << 32 | static_cast<uint32_t>(~key);
}

// visit(key, id) for the tokens of a row, split among the threads; four loads are under way at once.
template <typename Visit>
DUNLIN_DEV void ForEach(const float* row, int vocab, const Visit& visit) {
  constexpr int kAtOnce = 4;
  for (int base = dev::ThreadX(); base < vocab; base += kAtOnce * kThreads) {
    float x[kAtOnce];
    DUNLIN_UNROLL
    for (int i = 0; i < kAtOnce; ++i) x[i] = base + i * kThreads < vocab ? row[base + i * kThreads] : 0.0f;
    DUNLIN_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (base + i * kThreads < vocab) visit(KeyOf(x[i]), base + i * kThreads);
    }
  }
}

}  // namespace dunlin::kernels::cuda::sampler

#endif  // DUNLIN_KERNELS_CUDA_SAMPLER_VIEW_H_
