// How long a request's output will be: a quantile of what finished requests with a similar max_tokens generated.
// Admission reserves pages for it instead of for max_tokens, so more requests run at once; when it promised too little,
// somebody is preempted, the quantile rises, and the pages of the next ones are reckoned more carefully.
// Thread-safety: none needed (engine thread).  Owns: its histograms, made once (about 8 KiB).  Cost: O(1) to observe,
// about 100 ns to predict; allocates nothing.  Equal observations give equal predictions.
//
// Histograms: one per power of two of max_tokens, bins four to an octave of length (a prediction is the upper edge of
// its bin: at most a fifth too long), older observations fade with a half-life of some hundred requests. Until a class
// has seen enough, its prediction is max_tokens. The quantile's tail halves with each preemption and doubles in some
// thousand steps without one: it settles where preemptions are about 0.05 % of steps. Source: ours; the ratio that
// SGLang decays and resets (new_token_ratio) serves the same end for all lengths alike.
#ifndef DUNLIN_WORKER_SCHEDULER_OUTPUT_PREDICTOR_H_
#define DUNLIN_WORKER_SCHEDULER_OUTPUT_PREDICTOR_H_

#include <array>
#include <cstdint>

namespace dunlin::worker {

class OutputPredictor {
 public:
  OutputPredictor();

  // A request that asked for max_tokens at most ended by itself after `generated`; not for cancelled or failed ones,
  // which say nothing about the length they would have had.
  void Observe(int32_t generated, int32_t max_tokens);
  // The whole output of a request that has generated `generated` of max_tokens: in [min(generated + 1, max_tokens),
  // max_tokens].
  int32_t Predict(int32_t max_tokens, int32_t generated = 0) const;

  // Feedback: once per step, and once per preempted sequence.
  void OnStep();
  void OnPreemption();
  double quantile() const { return 1 - tail_; }

 private:
  static constexpr int kClasses = 32;       // floor(log2(max_tokens))
  static constexpr int kBins = 4 * 31 + 1;  // four per octave of int32_t
  struct Histogram {
    std::array<float, kBins> weight{};
    float total = 0;
  };

  std::array<Histogram, kClasses> histograms_;
  double tail_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_OUTPUT_PREDICTOR_H_
