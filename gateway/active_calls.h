// The calls that are open now, by request id: refuses duplicates, lets an operator find one, lets a drain wait for all.
// Thread-safety: thread-safe.  Borrows: the calls (weakly).  Source: ours.
#ifndef DUNLIN_GATEWAY_ACTIVE_CALLS_H_
#define DUNLIN_GATEWAY_ACTIVE_CALLS_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace dunlin::gateway {

template <typename Call>
class ActiveCalls {
 public:
  // False when the id is in use.
  [[nodiscard]] bool Insert(const std::string& request_id, std::weak_ptr<Call> call) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    const bool inserted = calls_.emplace(request_id, std::move(call)).second;
    if (inserted) ++open_;
    return inserted;
  }

  // Frees the id of a call that is about to end: its client may use it again as soon as it sees the end.
  void Erase(const std::string& request_id) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    calls_.erase(request_id);
  }

  // The end of an inserted call is on its way to the client: nothing that happens to the server now takes it back.
  void Done() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    if (--open_ == 0) none_open_.SignalAll();
  }

  std::shared_ptr<Call> Find(absl::string_view request_id) const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    const auto it = calls_.find(request_id);
    return it == calls_.end() ? nullptr : it->second.lock();
  }

  std::vector<std::shared_ptr<Call>> All() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    std::vector<std::shared_ptr<Call>> all;
    for (const auto& [id, call] : calls_) {
      if (auto strong = call.lock()) all.push_back(std::move(strong));
    }
    return all;
  }

  // Blocks until every inserted call is done or the timeout passed; true = all are.
  bool WaitUntilDone(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
    MutexLock lock(&mu_);
    while (open_ > 0) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= std::chrono::nanoseconds::zero()) return false;
      none_open_.WaitFor(&mu_, left);
    }
    return true;
  }

 private:
  mutable Mutex mu_;
  CondVar none_open_;
  int64_t open_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<std::string, std::weak_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_ACTIVE_CALLS_H_
