#include "worker/scheduler/output_predictor.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace dunlin::worker {
namespace {

constexpr float kFade = 0.997f;   // per observation of the class: half-life 231 requests
constexpr float kEnough = 15.5f;  // weight from which a class is believed: 16 requests, a little faded
constexpr double kFirstTail = 0.05, kLeastTail = 1.0 / 1024, kMostTail = 0.3;
// The tail doubles in 2,000 steps without a preemption and halves with one: in balance at one in 2,000 steps.
constexpr double kGrowth = 1.000346633;

int Log2(int32_t n) { return static_cast<int>(std::bit_width(static_cast<uint32_t>(n))) - 1; }

// Four bins per octave, split evenly; [1], [2], [3] are bins of their own.
int BinOf(int32_t length) {
  const int octave = Log2(length);
  const int quarter = octave >= 2 ? ((length >> (octave - 2)) & 3) : (length << (2 - octave)) & 3;
  return 4 * octave + quarter;
}

// The largest length of the bin.
int64_t UpperEdge(int bin) {
  const int64_t octave = int64_t{1} << (bin / 4);
  return octave + (octave * (bin % 4 + 1) + 3) / 4 - 1;
}

}  // namespace

OutputPredictor::OutputPredictor() : tail_(kFirstTail) {}

void OutputPredictor::Observe(int32_t generated, int32_t max_tokens) {
  if (max_tokens < 1 || generated < 1) return;
  CHECK_LE(generated, max_tokens);
  Histogram& h = histograms_[static_cast<size_t>(Log2(max_tokens))];
  h.total = 0;
  for (float& w : h.weight) {
    w *= kFade;
    h.total += w;
  }
  h.weight[static_cast<size_t>(BinOf(generated))] += 1;
  h.total += 1;
}

int32_t OutputPredictor::Predict(int32_t max_tokens, int32_t generated) const {
  if (max_tokens < 1) return 0;
  const Histogram& h = histograms_[static_cast<size_t>(Log2(max_tokens))];
  if (h.total < kEnough || tail_ < 2 * kLeastTail) return max_tokens;
  const int first = generated < 1 ? 0 : BinOf(std::min(generated, max_tokens));
  // What is left of the distribution for a sequence that has come so far.
  double left = 0;
  for (size_t bin = static_cast<size_t>(first); bin < h.weight.size(); ++bin)
    left += static_cast<double>(h.weight[bin]);
  if (left < 1) return max_tokens;
  double above = left;
  for (size_t bin = static_cast<size_t>(first); bin < h.weight.size(); ++bin) {
    above -= static_cast<double>(h.weight[bin]);
    if (above > tail_ * left) continue;
    const int64_t length = std::max<int64_t>(UpperEdge(static_cast<int>(bin)), int64_t{generated} + 1);
    return static_cast<int32_t>(std::min<int64_t>(length, max_tokens));
  }
  return max_tokens;
}

void OutputPredictor::OnStep() { tail_ = std::min(tail_ * kGrowth, kMostTail); }
void OutputPredictor::OnPreemption() { tail_ = std::max(tail_ / 2, kLeastTail); }

}  // namespace dunlin::worker
