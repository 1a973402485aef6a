// Selection without a sort: one block finds the token at which a cumulated count or mass passes a target. A token has a
// 64-bit order; a histogram of the order's first ten bits tells the bin that holds the target, the next histogram is of
// that bin's next ten bits, and so on; a bin of few tokens is gathered and finished by comparing all pairs. Tokens of
// one order have one mass, and follow each other by id.
//
// The order is (bin of the log-probability, key) to draw: the bins are linear between the most and the least likely
// token, so the atomics of a histogram spread. It is (distance to the mean surprise, key) for typical-p.
// Thread-safety: all threads of the block call every function that has `shared`, with the same arguments.
// Owns: nothing.  Errors: none.  Cost: a pass over the row per histogram, gathering or sum.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_SAMPLER_SELECT_H_
#define DUNLIN_KERNELS_CUDA_SAMPLER_SELECT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/sampler_numbers.h"

namespace dunlin::kernels::cuda::sampler {

inline constexpr int kThreads = 1024;
inline constexpr int kWarps = kThreads / dev::kWarp;
inline constexpr int kDigitBits = 10;
inline constexpr int kBins = 1 << kDigitBits;  // a thread for each
inline constexpr int kList = 256;
static_assert(kBins == kThreads && kList <= kThreads);

struct Histogram {
  uint32_t count[kBins];
  uint32_t low[kBins], high[kBins];  // of the mass: there is no 64-bit atomic of shared memory but a loop
};
// The bin of a target, and what lies before and in it.
struct Bin {
  uint32_t index, count_before, count;
  uint64_t mass_before, mass;
};
// A token, and the mass of all up to it.
struct Found {
  uint32_t key;
  int32_t id;
  uint64_t mass_through;
};
struct Shared {
  Histogram first, next;  // of a view (Build); of the bins within one
  uint64_t list_order[kList], list_mass[kList];
  int32_t list_id[kList];
  uint32_t list_size;
  uint64_t partial[kWarps], other_partial[kWarps];
  Bin bin;
  Found found;
};

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

DUNLIN_DEV uint64_t BlockSum(Shared* shared, uint64_t x) {
  DUNLIN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += dev::ShuffleXor(x, mask);
  if (dev::Lane() == 0) shared->partial[dev::Warp()] = x;
  dev::SyncThreads();
  uint64_t sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += shared->partial[w];
  dev::SyncThreads();
  return sum;
}
DUNLIN_DEV uint64_t BlockMax(Shared* shared, uint64_t x) {
  DUNLIN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = dev::ShuffleXor(x, mask);
    x = x > other ? x : other;
  }
  if (dev::Lane() == 0) shared->partial[dev::Warp()] = x;
  dev::SyncThreads();
  uint64_t max = 0;
  for (int w = 0; w < kWarps; ++w) max = shared->partial[w] > max ? shared->partial[w] : max;
  dev::SyncThreads();
  return max;
}

DUNLIN_DEV void Clear(Histogram* h) {
  const int i = dev::ThreadX();
  h->count[i] = h->low[i] = h->high[i] = 0;
}
DUNLIN_DEV void Add(Histogram* h, uint32_t bin, uint64_t mass) {
  dev::AtomicAdd(&h->count[bin], 1u);
  if (mass == 0) return;
  const auto low = static_cast<uint32_t>(mass);
  const uint32_t carry = dev::AtomicAdd(&h->low[bin], low) + low < low ? 1 : 0;
  dev::AtomicAdd(&h->high[bin], static_cast<uint32_t>(mass >> 32) + carry);
}
DUNLIN_DEV uint64_t MassIn(const Histogram& h, int bin) { return uint64_t{h.high[bin]} << 32 | h.low[bin]; }

// Into h: the members whose order begins with `prefix` (all bits but the last `bits`), by the digit of `width` bits
// that follows.
DUNLIN_DEV void Count(const View& v, uint64_t prefix, int bits, int width, Histogram* h) {
  Clear(h);
  dev::SyncThreads();
  ForEach(v.row, v.vocab, [&](uint32_t key, int32_t id) {
    if (!IsMember(v, key, id)) return;
    const uint64_t order = OrderOf(v, key);
    if (order >> bits != prefix) return;
    Add(h, static_cast<uint32_t>(order >> (bits - width)) & ((1u << width) - 1), MassOf(v.scale, key));
  });
  dev::SyncThreads();
}

// The bin in which the cumulated mass (or count) passes `target`.
DUNLIN_DEV Bin FindBin(Shared* shared, const Histogram& h, bool by_mass, uint64_t target) {
  const int i = dev::ThreadX(), lane = dev::Lane(), warp = dev::Warp();
  const uint32_t count = h.count[i];
  const uint64_t mass = MassIn(h, i);
  uint64_t counts = count, masses = mass;  // up to and with this bin, within the warp
  DUNLIN_UNROLL
  for (int step = 1; step < dev::kWarp; step *= 2) {
    const uint64_t c = dev::Shuffle(counts, lane - step), m = dev::Shuffle(masses, lane - step);
    if (lane >= step) counts += c, masses += m;
  }
  if (lane == dev::kWarp - 1) shared->partial[warp] = counts, shared->other_partial[warp] = masses;
  dev::SyncThreads();
  for (int w = 0; w < warp; ++w) counts += shared->partial[w], masses += shared->other_partial[w];
  counts -= count, masses -= mass;
  const uint64_t before = by_mass ? masses : counts;
  if (before <= target && target < before + (by_mass ? mass : count)) {
    shared->bin = {static_cast<uint32_t>(i), static_cast<uint32_t>(counts), count, masses, mass};
  }
  dev::SyncThreads();
  const Bin bin = shared->bin;
  dev::SyncThreads();
  return bin;
}

// The view's own histogram, into shared->first, and the mass and count of all its members.
DUNLIN_DEV uint64_t Build(Shared* shared, const View& v, uint32_t* count) {
  const int bits = OrderBits(v);
  Count(v, 0, bits, kDigitBits, &shared->first);
  *count = static_cast<uint32_t>(BlockSum(shared, shared->first.count[dev::ThreadX()]));
  return BlockSum(shared, MassIn(shared->first, dev::ThreadX()));
}

}  // namespace dunlin::kernels::cuda::sampler

#endif  // DUNLIN_KERNELS_CUDA_SAMPLER_SELECT_H_
