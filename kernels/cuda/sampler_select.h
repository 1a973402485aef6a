// Selection without a sort: one block finds the token at which a cumulated count or mass passes a target. A token has a
// 64-bit order; a histogram of the order's first ten bits tells the bin that holds the target, the next histogram is of
// that bin's next ten bits, and so on; a bin of few tokens is gathered and finished by comparing all pairs. Tokens of
// one order have one mass, and follow each other by id.
//
// Thread-safety: all threads of the block call every function that has `shared`, with the same arguments.
// Owns: nothing.  Errors: none.  Cost: a pass over the row per histogram, gathering or sum.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_SAMPLER_SELECT_H_
#define DUNLIN_KERNELS_CUDA_SAMPLER_SELECT_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/sampler_view.h"

namespace dunlin::kernels::cuda::sampler {

inline constexpr int kWarps = kThreads / dev::kWarp;
inline constexpr int kOwnBins = kBins / kThreads;  // of a thread
inline constexpr int kList = 256;
static_assert(kBins % kThreads == 0 && kList <= kThreads);

// Of each bin and, once cumulated, of it and all before.
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
// The largest x and the largest y.
DUNLIN_DEV void BlockMax(Shared* shared, uint64_t* x, uint64_t* y) {
  DUNLIN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other_x = dev::ShuffleXor(*x, mask), other_y = dev::ShuffleXor(*y, mask);
    *x = *x > other_x ? *x : other_x;
    *y = *y > other_y ? *y : other_y;
  }
  if (dev::Lane() == 0) shared->partial[dev::Warp()] = *x, shared->other_partial[dev::Warp()] = *y;
  dev::SyncThreads();
  for (int w = 0; w < kWarps; ++w) {
    *x = *x > shared->partial[w] ? *x : shared->partial[w];
    *y = *y > shared->other_partial[w] ? *y : shared->other_partial[w];
  }
  dev::SyncThreads();
}

DUNLIN_DEV void Add(Histogram* h, uint32_t bin, uint64_t mass) {
  dev::AtomicAdd(&h->count[bin], 1u);
  if (mass == 0) return;
  const auto low = static_cast<uint32_t>(mass);
  const uint32_t carry = dev::AtomicAdd(&h->low[bin], low) + low < low ? 1 : 0;
  dev::AtomicAdd(&h->high[bin], static_cast<uint32_t>(mass >> 32) + carry);
}
DUNLIN_DEV uint64_t MassOf(const Histogram& h, int bin) { return uint64_t{h.high[bin]} << 32 | h.low[bin]; }

DUNLIN_DEV void Cumulate(Shared* shared, Histogram* h) {
  const int lane = dev::Lane(), warp = dev::Warp(), first = dev::ThreadX() * kOwnBins;
  uint64_t count = 0, mass = 0;
  for (int i = 0; i < kOwnBins; ++i) count += h->count[first + i], mass += MassOf(*h, first + i);
  uint64_t counts = count, masses = mass;  // up to and with this thread's
  DUNLIN_UNROLL
  for (int step = 1; step < dev::kWarp; step *= 2) {
    const uint64_t c = dev::Shuffle(counts, lane - step), m = dev::Shuffle(masses, lane - step);
    if (lane >= step) counts += c, masses += m;
  }
  if (lane == dev::kWarp - 1) shared->partial[warp] = counts, shared->other_partial[warp] = masses;
  dev::SyncThreads();
  for (int w = 0; w < warp; ++w) counts += shared->partial[w], masses += shared->other_partial[w];
  counts -= count, masses -= mass;
  for (int i = 0; i < kOwnBins; ++i) {
    counts += h->count[first + i], masses += MassOf(*h, first + i);
    h->count[first + i] = static_cast<uint32_t>(counts);
    h->low[first + i] = static_cast<uint32_t>(masses);
    h->high[first + i] = static_cast<uint32_t>(masses >> 32);
  }
  dev::SyncThreads();
}

// Into h, cumulated: the members whose order begins with `prefix` (all bits but the last `bits`), by the digit of
// `width` bits that follows.
DUNLIN_DEV void Count(Shared* shared, const View& v, uint64_t prefix, int bits, int width, Histogram* h) {
  for (int i = dev::ThreadX(); i < kBins; i += kThreads) h->count[i] = h->low[i] = h->high[i] = 0;
  dev::SyncThreads();
  ForEach(v.row, v.vocab, [&](uint32_t key, int32_t id) {
    if (!IsMember(v, key, id)) return;
    const uint64_t order = OrderOf(v, key);
    if (order >> bits != prefix) return;
    Add(h, static_cast<uint32_t>(order >> (bits - width)) & ((1u << width) - 1), MassOf(v.scale, key));
  });
  dev::SyncThreads();
  Cumulate(shared, h);
}

// The bin of a cumulated histogram in which the mass (or count) passes `target`, which is less than that of all.
DUNLIN_DEV Bin FindBin(Shared* shared, const Histogram& h, bool by_mass, uint64_t target) {
  for (int i = dev::ThreadX(); i < kBins; i += kThreads) {
    const uint32_t count_before = i > 0 ? h.count[i - 1] : 0;
    const uint64_t mass_before = i > 0 ? MassOf(h, i - 1) : 0;
    if ((by_mass ? mass_before : count_before) <= target && target < (by_mass ? MassOf(h, i) : h.count[i])) {
      shared->bin = {static_cast<uint32_t>(i), count_before, h.count[i] - count_before, mass_before,
                     MassOf(h, i) - mass_before};
    }
  }
  dev::SyncThreads();
  const Bin bin = shared->bin;
  dev::SyncThreads();
  return bin;
}

// The view's own histogram, into shared->first. Returns the mass of its members.
DUNLIN_DEV uint64_t Build(Shared* shared, const View& v) {
  Count(shared, v, 0, OrderBits(v), kDigitBits, &shared->first);
  return MassOf(shared->first, kBins - 1);
}

}  // namespace dunlin::kernels::cuda::sampler

#endif  // DUNLIN_KERNELS_CUDA_SAMPLER_SELECT_H_
