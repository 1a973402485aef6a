#include "worker/sampling/sequence_sampler.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "base/check.h"

namespace dunlin::worker {
namespace {

bool HasPenalty(const SamplingSpec& spec) {
  return spec.penalty_last_n != 0 &&
         (spec.repetition_penalty != 1.0f || spec.frequency_penalty != 0.0f || spec.presence_penalty != 0.0f);
}

}  // namespace

PenaltyWindow::PenaltyWindow(int32_t window, std::span<const int32_t> prompt, size_t max_tokens)
    : window_(window < 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(window)) {
  const size_t most = std::min(window_, max_tokens);
  if (window_ < max_tokens) ring_.reserve(window_);
  // Twice the room: erased entries of the hash map leave marks that count as used until they are swept.
  occurrences_.reserve(2 * most);
  counts_.reserve(most + 1);
  if (prompt.size() > window_) prompt = prompt.last(window_);
  for (const int32_t token : prompt) Append(token, false);
}

void PenaltyWindow::Append(int32_t token, bool in_output) {
  if (window_ == 0) return;
  if (ring_.capacity() > 0) {
    if (ring_.size() < window_) {
      ring_.push_back({token, in_output});
    } else {
      Entry& oldest = ring_[ring_at_];
      Change(oldest.token, oldest.in_output, -1);
      oldest = {token, in_output};
      ring_at_ = (ring_at_ + 1) % window_;
    }
  }
  Change(token, in_output, +1);
}

void PenaltyWindow::Change(int32_t token, bool in_output, int32_t by) {
  auto [it, is_new] = occurrences_.try_emplace(token);
  Occurrences& o = it->second;
  if (is_new) {
    o.index = counts_.size();
    counts_.push_back({});
  }
  (in_output ? o.in_output : o.in_prompt) += by;
  CHECK(o.in_prompt >= 0 && o.in_output >= 0) << "token " << token;
  if (o.in_prompt + o.in_output > 0) {
    counts_[o.index] = {token, o.in_output > 0 ? o.in_output : o.in_prompt, o.in_output > 0};
    return;
  }
  const size_t hole = o.index;
  occurrences_.erase(it);
  if (hole + 1 != counts_.size()) {
    counts_[hole] = counts_.back();
    occurrences_.at(counts_[hole].id).index = hole;
  }
  counts_.pop_back();
}

SequenceSampler::SequenceSampler(SamplingSpec spec, std::span<const int32_t> prompt, int32_t max_tokens,
                                 int32_t min_tokens, std::span<const int32_t> ending_tokens, int32_t num_top)
    : spec_(std::move(spec)),
      min_tokens_(min_tokens),
      num_top_(num_top),
      penalised_(HasPenalty(spec_)),
      window_(penalised_ ? spec_.penalty_last_n : 0, prompt, prompt.size() + static_cast<size_t>(max_tokens)) {
  if (min_tokens_ > 0) {
    banned_before_min_ = spec_.banned_tokens;
    banned_before_min_.insert(banned_before_min_.end(), ending_tokens.begin(), ending_tokens.end());
    std::sort(banned_before_min_.begin(), banned_before_min_.end());
    banned_before_min_.erase(std::unique(banned_before_min_.begin(), banned_before_min_.end()),
                             banned_before_min_.end());
  }
}

void SequenceSampler::Append(int32_t token) {
  ++num_drawn_;
  if (penalised_) window_.Append(token);
}

kernels::SampleParams SequenceSampler::Next(int32_t position, int32_t ahead) const {
  CHECK(ahead == 0 || !penalised_) << ahead;
  kernels::SampleParams p;
  p.temperature = spec_.temperature;
  p.top_k = spec_.top_k;
  p.top_p = spec_.top_p;
  p.min_p = spec_.min_p;
  p.typical_p = spec_.typical_p;
  p.repetition_penalty = spec_.repetition_penalty;
  p.frequency_penalty = spec_.frequency_penalty;
  p.presence_penalty = spec_.presence_penalty;
  p.seed = spec_.seed;
  p.position = static_cast<uint64_t>(position);
  p.penalty_tokens = window_.counts();
  p.biases = spec_.logit_bias;
  p.allowed = spec_.allowed_tokens;
  p.banned = num_drawn_ + ahead < min_tokens_ ? banned_before_min_ : spec_.banned_tokens;
  p.num_top = num_top_;
  return p;
}

kernels::SampleParams JudgeToken(int32_t token, int32_t position, int32_t num_top) {
  kernels::SampleParams p;
  p.forced_token = token;
  p.position = static_cast<uint64_t>(position);
  p.num_top = num_top;
  return p;
}

}  // namespace dunlin::worker
