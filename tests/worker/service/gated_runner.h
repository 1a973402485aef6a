// A model for the tests of the service: it computes next tokens by a rule that the tests can compute too, and it takes
// a step only when it is let. Thread-safety: Allow, Open and Lose from any thread; the rest as ModelRunner. Rule: next
// = (token + 1 + seed) mod vocab when the temperature is above 0, else (token + 1) mod vocab.
#ifndef DUNLIN_TESTS_WORKER_SERVICE_GATED_RUNNER_H_
#define DUNLIN_TESTS_WORKER_SERVICE_GATED_RUNNER_H_

#include <limits>
#include <vector>

#include "base/mutex.h"
#include "worker/model_runner.h"

namespace dunlin::testing {

class GatedRunner final : public worker::ModelRunner {
 public:
  static constexpr int kVocab = 100;
  static constexpr int kPageTokens = 8;
  static constexpr int kMaxModelLen = 4096;

  // steps: how many may be taken before Allow or Open.
  explicit GatedRunner(int64_t steps = std::numeric_limits<int64_t>::max() / 2);

  const worker::RunnerInfo& info() const override { return info_; }
  absl::Status Step(const worker::StepBatch& batch, worker::StepResult* result) override;
  absl::Status MovePages(std::span<const kv::PageMove>, std::vector<int32_t>* failed_pages) override {
    failed_pages->clear();
    return absl::OkStatus();
  }

  void Allow(int64_t steps) ABSL_LOCKS_EXCLUDED(mu_);
  void Open() { Allow(std::numeric_limits<int64_t>::max() / 2); }
  // Every later step says that the device is gone.
  void Lose() ABSL_LOCKS_EXCLUDED(mu_);
  // Returns once `steps` steps were begun.
  void WaitForSteps(int64_t steps) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  worker::RunnerInfo info_;
  Mutex mu_;
  CondVar changed_;
  int64_t allowed_ ABSL_GUARDED_BY(mu_);
  int64_t begun_ ABSL_GUARDED_BY(mu_) = 0;
  bool lost_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_SERVICE_GATED_RUNNER_H_
