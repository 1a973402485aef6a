// Chooses the worker of a request from a snapshot: the ready one with the least work.
// Thread-safety: pure function.  Errors: none; no choice is a value.  Cost: O(workers).  Source: ours.
#ifndef DUNLIN_GATEWAY_ROUTER_H_
#define DUNLIN_GATEWAY_ROUTER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/strings/string_view.h"

namespace dunlin::gateway {

struct WorkerView {
  bool ready = false;
  uint32_t relayed = 0;   // streams this gateway has open on it: exact and current
  uint32_t reported = 0;  // running + waiting, as it said last (older, but counts other gateways' streams)
  uint32_t held_pages = 0;
  uint32_t total_pages = 0;
};

struct RoutingDecision {
  size_t worker = 0;
  absl::string_view reason;  // label of dunlin_routing_decisions_total
};

inline constexpr absl::string_view kRoutingReasons[] = {"only_ready", "least_loaded", "none_ready"};

// Fewest streams first, then the smaller share of held pages, then the lower index: equal snapshots route alike.
// nullopt when none is ready.
std::optional<RoutingDecision> PickWorker(std::span<const WorkerView> workers);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_ROUTER_H_
