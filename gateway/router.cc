#include "gateway/router.h"

#include <algorithm>

namespace dunlin::gateway {
namespace {

// True when a is strictly the better choice. The greater of both counts: ours is current, theirs sees other gateways.
bool LessLoaded(const WorkerView& a, const WorkerView& b) {
  const uint32_t load_a = std::max(a.relayed, a.reported);
  const uint32_t load_b = std::max(b.relayed, b.reported);
  if (load_a != load_b) return load_a < load_b;
  // held_a / total_a < held_b / total_b without division; no pages known counts as full.
  const uint64_t left = uint64_t{a.total_pages == 0 ? 1 : a.held_pages} * std::max(b.total_pages, 1u);
  const uint64_t right = uint64_t{b.total_pages == 0 ? 1 : b.held_pages} * std::max(a.total_pages, 1u);
  return left < right;
}

}  // namespace

std::optional<RoutingDecision> PickWorker(std::span<const WorkerView> workers) {
  std::optional<size_t> best;
  size_t num_ready = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    if (!workers[i].ready) continue;
    ++num_ready;
    if (!best.has_value() || LessLoaded(workers[i], workers[*best])) best = i;
  }
  if (!best.has_value()) return std::nullopt;
  return RoutingDecision{*best, num_ready == 1 ? kRoutingReasons[0] : kRoutingReasons[1]};
}

}  // namespace dunlin::gateway
