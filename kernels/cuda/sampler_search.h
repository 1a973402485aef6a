// The search of sampler_select.h from a view's histogram down to one token.
// Thread-safety, owns, errors, cost: as sampler_select.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_SAMPLER_SEARCH_H_
#define DUNLIN_KERNELS_CUDA_SAMPLER_SEARCH_H_

#include <cstdint>

#include "kernels/cuda/sampler_select.h"

namespace dunlin::kernels::cuda::sampler {

// The member of this order that `index` others precede by id: each warp counts its own run of ids, then one walks.
DUNLIN_DEV int32_t FindById(Shared* shared, const View& v, uint64_t order, uint64_t index) {
  const int run = (v.vocab + kThreads - 1) / kThreads * dev::kWarp;
  const int begin = dev::Warp() * run, end = begin + run < v.vocab ? begin + run : v.vocab;
  const auto matches = [&](int i) {
    if (i >= end) return false;
    const uint32_t key = KeyOf(v.row[i]);
    return IsMember(v, key, i) && OrderOf(v, key) == order;
  };
  uint64_t count = 0;
  for (int i = begin; i < end; i += dev::kWarp) {
    count += static_cast<uint64_t>(dev::PopCount(dev::Ballot(matches(i + dev::Lane()))));
  }
  if (dev::Lane() == 0) shared->partial[dev::Warp()] = count;
  dev::SyncThreads();
  uint64_t before = 0;
  for (int w = 0; w < dev::Warp(); ++w) before += shared->partial[w];
  if (before <= index && index < before + count) {
    for (int i = begin; i < end; i += dev::kWarp) {
      const bool mine = matches(i + dev::Lane());
      const uint32_t all = dev::Ballot(mine);
      const int earlier = dev::PopCount(all & ((1u << dev::Lane()) - 1));
      if (mine && before + static_cast<uint64_t>(earlier) == index) shared->found.id = i + dev::Lane();
      before += static_cast<uint64_t>(dev::PopCount(all));
    }
  }
  dev::SyncThreads();
  const int32_t id = shared->found.id;
  dev::SyncThreads();
  return id;
}

// The members whose order begins with `prefix`, at most kList, into the list.
DUNLIN_DEV void Gather(Shared* shared, const View& v, uint64_t prefix, int bits) {
  if (dev::ThreadX() == 0) shared->list_size = 0;
  dev::SyncThreads();
  ForEach(v.row, v.vocab, [&](uint32_t key, int32_t id) {
    if (!IsMember(v, key, id)) return;
    const uint64_t order = OrderOf(v, key);
    if (order >> bits != prefix) return;
    const uint32_t at = dev::AtomicAdd(&shared->list_size, 1u);
    shared->list_order[at] = order;
    shared->list_mass[at] = MassOf(v.scale, key);
    shared->list_id[at] = id;
  });
  dev::SyncThreads();
}

// The token of the list at which the cumulated mass (or count) passes `target`; mass_before: of all before the list.
DUNLIN_DEV Found FindInList(Shared* shared, bool by_mass, uint64_t target, uint64_t mass_before) {
  const auto size = static_cast<int>(shared->list_size);
  const int i = dev::ThreadX();
  if (i < size) {
    const uint64_t order = shared->list_order[i], mass = shared->list_mass[i];
    const int32_t id = shared->list_id[i];
    uint64_t count = 0, sum = 0;
    for (int j = 0; j < size; ++j) {
      const uint64_t other = shared->list_order[j];
      if (other < order || (other == order && shared->list_id[j] < id)) ++count, sum += shared->list_mass[j];
    }
    const uint64_t before = by_mass ? sum : count;
    if (before <= target && target < before + (by_mass ? mass : 1)) {
      shared->found = {~static_cast<uint32_t>(order), id, mass_before + sum + mass};
    }
  }
  dev::SyncThreads();
  const Found found = shared->found;
  dev::SyncThreads();
  return found;
}

// The member at which the mass (or count) cumulated in the view's order passes `target`, which must be less than that
// of all. shared->first: the histogram of the view, or of one that had more members after the target.
DUNLIN_DEV Found Search(Shared* shared, const View& v, bool by_mass, uint64_t target) {
  int bits = OrderBits(v) - kDigitBits;
  Bin bin = FindBin(shared, shared->first, by_mass, target);
  uint64_t prefix = bin.index, mass_before = bin.mass_before;
  for (;;) {
    target -= by_mass ? bin.mass_before : bin.count_before;
    if (bin.count <= kList) {
      Gather(shared, v, prefix, bits);
      return FindInList(shared, by_mass, target, mass_before);
    }
    if (bits == 0) {
      const uint64_t each = bin.mass / bin.count;
      const uint64_t index = by_mass ? target / each : target;
      const int32_t id = FindById(shared, v, prefix, index);
      return {~static_cast<uint32_t>(prefix), id, mass_before + (index + 1) * each};
    }
    const int width = bits < kDigitBits ? bits : kDigitBits;
    Count(shared, v, prefix, bits, width, &shared->next);
    bin = FindBin(shared, shared->next, by_mass, target);
    bits -= width;
    prefix = prefix << width | bin.index;
    mass_before += bin.mass_before;
  }
}

}  // namespace dunlin::kernels::cuda::sampler

#endif  // DUNLIN_KERNELS_CUDA_SAMPLER_SEARCH_H_
