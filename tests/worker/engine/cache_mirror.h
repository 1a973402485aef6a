// Collects the prefix hashes that are in an engine's cache, from its events, as a gateway would.
// Thread-safety: none; the engine's thread calls.  Owns: the hashes.
#ifndef DUNLIN_TESTS_WORKER_ENGINE_CACHE_MIRROR_H_
#define DUNLIN_TESTS_WORKER_ENGINE_CACHE_MIRROR_H_

#include <cstdint>
#include <set>
#include <span>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "worker/engine/engine.h"
#include "worker/model_runner.h"

namespace dunlin::testing {

class CacheMirror final : public worker::EngineObserver {
 public:
  void OnStep(int, int, const worker::StepResult&, absl::Duration) override {}
  void OnScheduled(absl::Duration) override {}
  void OnFirstToken(absl::Duration) override {}
  void OnInterTokenLatency(absl::Duration) override {}
  void OnCancelToFree(absl::Duration) override {}
  void OnCacheEvents(std::span<const uint64_t> added, std::span<const uint64_t> removed) override {
    for (const uint64_t h : removed) EXPECT_EQ(hashes.erase(h), 1u);
    for (const uint64_t h : added) EXPECT_TRUE(hashes.insert(h).second);
  }
  std::set<uint64_t> hashes;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_ENGINE_CACHE_MIRROR_H_
