// A ModelRunner without a model, for tests of everything above it. Its greedy next token is a hash of the whole prefix,
// read back through the page table, so a wrong page gives wrong text; and it is the content oracle: every slot that
// attention would read must hold the token that the sequence put there, at its position, after the same prefix.
// Moved pages carry their slots with them, so a wrong move shows in the same way. It can run a step ahead: a submitted
// step is executed when it is waited for, or at once, or when another step or a move comes after it.
// Thread-safety: engine thread only; hooks are set before the first Step.  Owns: the slots.
// Errors of Step: what the before_step hook returns. A slot with the wrong content, or two rows of a step in one slot,
// is a bug of the caller and CHECK-fails. Cost: O(context) per sequence and step; a draw that is not plain greedy also
// O(vocab log vocab). Source: ours.
#ifndef DUNLIN_WORKER_RUNNERS_FAKE_RUNNER_H_
#define DUNLIN_WORKER_RUNNERS_FAKE_RUNNER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/model_runner.h"

namespace dunlin::worker {

struct FakeRunnerOptions {
  int vocab_size = 97;
  int max_model_len = 256;
  int page_tokens = 16;
  int32_t num_pages = 64;
  int max_rows = 64;
  uint64_t page_bytes = 1024;                                 // of the declared traffic
  uint64_t weight_bytes = 1 << 20;                            // same
  absl::Duration device_time = absl::Microseconds(100);       // reported for every step; nothing sleeps
  std::function<absl::Status(const StepBatch&)> before_step;  // fails, delays or looks; may be empty
  int32_t host_slots = 0;
  // Whether the record in this host slot turns out to be damaged when it is asked for; may be empty.
  std::function<bool(int32_t)> damaged;
  // Called with every list of moves; an error is a lost device. May be empty.
  std::function<absl::Status(std::span<const kv::PageMove>)> before_moves;
  // Replaces the likeliest token after a prefix: (its hash, its length) -> token; may be empty.
  std::function<int32_t(uint64_t, int32_t)> next_token;
  int max_steps_in_flight = 1;
  // Whether the step that is being submitted is executed at once, with those before it; may be empty (never).
  std::function<bool()> executes_at_submit;
};

class FakeRunner final : public ModelRunner {
 public:
  explicit FakeRunner(FakeRunnerOptions options);

  const RunnerInfo& info() const override { return info_; }
  absl::Status Step(const StepBatch& batch, StepResult* result) override;
  absl::Status Submit(const StepBatch& batch) override;
  absl::Status Wait(StepResult* result) override;
  absl::Status MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) override;

  // What an undisturbed sequence generates greedily: `count` tokens after `prompt`.
  std::vector<int32_t> Greedy(std::span<const int32_t> prompt, int count) const;
  // The logits after a prefix, [vocab]; the likeliest token has the only maximum.
  void Logits(std::span<const int32_t> prefix, std::vector<float>* logits) const;

 private:
  struct Slot {
    int32_t token = -1;
    int32_t position = -1;
    uint64_t prefix_hash = 0;  // of the tokens up to and with this one
    int64_t written_in = -1;   // step
  };

  // A step in flight, with copies of all that its batch names.
  struct HeldStep {
    void Hold(const StepBatch& from, int page_tokens);

    StepBatch batch;
    std::vector<kernels::TokenCount> penalties;  // what batch.sample_params point to
    std::vector<kernels::TokenBias> biases;
    std::vector<int32_t> allowed, banned;
    StepResult result;
    bool executed = false;
  };

  absl::Status Execute(HeldStep* step);
  absl::Status ExecuteAll();
  // *batch is complete: every token is known.
  absl::Status Run(const StepBatch& batch, StepResult* result);
  std::span<Slot> Page(int32_t page);
  std::span<Slot> Record(int32_t host_slot);
  Slot& SlotAt(const kernels::SequenceSlice& sequence, int32_t position);
  // Writes the rows' slots, then reads the context of the sequence as attention would.
  void Append(const StepBatch& batch, const kernels::SequenceSlice& sequence);
  void Verify(const kernels::SequenceSlice& sequence);
  int32_t Likeliest(uint64_t prefix_hash, int32_t length) const;
  void LogitsOf(uint64_t prefix_hash, int32_t length, std::vector<float>* logits) const;
  void Sample(uint64_t prefix_hash, int32_t length, const kernels::SampleParams& params, kernels::SampleResult* out);
  kernels::Traffic TrafficOf(const StepBatch& batch) const;

  const FakeRunnerOptions options_;
  RunnerInfo info_;
  std::vector<Slot> slots_;                // [num_pages * page_tokens]
  std::vector<Slot> records_;              // [host_slots * page_tokens]
  std::vector<uint64_t> row_prefix_hash_;  // of the current step
  std::vector<float> logits_;
  int64_t step_ = 0;
  std::array<HeldStep, 2> held_;     // the oldest first
  size_t num_held_ = 0;              // steps in flight
  std::vector<int32_t> last_drawn_;  // outputs of the step executed last
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_FAKE_RUNNER_H_
