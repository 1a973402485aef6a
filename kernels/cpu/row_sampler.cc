#include "kernels/cpu/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
// Above this temperature different logits may share a probability, and ties go by id: all tokens must be looked at.
constexpr float kFlatTemperature = 1e4f;

}  // namespace

void RowSampler::Reserve(int max_vocab) {
  const auto n = static_cast<size_t>(std::max(max_vocab, 1));
  // Not initialised: what a row never needs is never touched.
  key_memory_.reset(new float[n]);
  exact_memory_.reset(new double[n]);
  candidates_.reset(new Candidate[n]);
  const size_t blocks = (n + kScanBlock - 1) / kScanBlock;
  block_max_.assign(blocks, kNone);
  sorted_max_.assign(blocks, kNone);
}

void RowSampler::Adjust(const float* logits, int vocab, const SampleParams& params) {
  keys_ = logits;
  exact_ = nullptr;
  if (params.biases.empty() && params.allowed.empty() && params.banned.empty() && params.penalty_tokens.empty()) return;
  const auto n = static_cast<size_t>(vocab);
  double* exact = exact_memory_.get();
  const auto value = [&](size_t i) { return std::isnan(logits[i]) ? double{kNone} : double{logits[i]}; };
  const auto at = [exact, vocab](int32_t id) -> double& {
    CHECK(id >= 0 && id < vocab) << "token id " << id;
    return exact[id];
  };
  if (params.allowed.empty()) {
    for (size_t i = 0; i < n; ++i) exact[i] = value(i);
  } else {
    std::fill_n(exact, n, double{kNone});
    for (const int32_t id : params.allowed) at(id) = value(static_cast<size_t>(id));
  }
  for (const TokenBias& b : params.biases) at(b.id) += double{b.bias};
  for (const int32_t id : params.banned) at(id) = double{kNone};
  for (const TokenCount& t : params.penalty_tokens) {
    double& l = at(t.id);
    if (l == double{kNone}) continue;
    const double repetition{params.repetition_penalty};
    l = l > 0.0 ? l / repetition : l * repetition;
    if (t.in_output) l -= double{params.frequency_penalty} * t.count + double{params.presence_penalty};
  }
  for (size_t i = 0; i < n; ++i) key_memory_[i] = static_cast<float>(exact[i]);
  keys_ = key_memory_.get();
  exact_ = exact;
}

void RowSampler::ScanBlocks(const KernelTable& kernels, const float* keys, int vocab) {
  kernels.block_max(keys, vocab, block_max_.data());
}

double RowSampler::Exact(int32_t id) const { return exact_ != nullptr ? exact_[id] : double{keys_[id]}; }

bool RowSampler::Gather(const float* keys, int vocab, size_t n) {
  const size_t blocks = (static_cast<size_t>(vocab) + kScanBlock - 1) / kScanBlock;
  float threshold = kNone;
  if (n < blocks) {
    // The n-th largest block maximum: n blocks hold at least one key each that is not below it.
    std::copy_n(block_max_.begin(), blocks, sorted_max_.begin());
    const auto nth = sorted_max_.begin() + static_cast<std::ptrdiff_t>(n - 1);
    std::nth_element(sorted_max_.begin(), nth, sorted_max_.begin() + static_cast<std::ptrdiff_t>(blocks),
                     std::greater<float>());
    threshold = *nth;
  }
  num_candidates_ = 0;
  for (size_t b = 0; b < blocks; ++b) {
    if (!(block_max_[b] >= threshold)) continue;
    const int end = std::min(vocab, static_cast<int>(b + 1) * kScanBlock);
    for (int i = static_cast<int>(b) * kScanBlock; i < end; ++i) {
      if (keys[i] >= threshold && keys[i] > kNone) candidates_[num_candidates_++] = {i, 0.0, 0.0};
    }
  }
  return threshold == kNone;
}

int32_t RowSampler::Argmax(const float* keys, int vocab) {
  Gather(keys, vocab, 1);
  if (num_candidates_ == 0) return 0;
  const bool exact = keys == keys_;
  const auto logit = [&](int32_t id) { return exact ? Exact(id) : double{keys[id]}; };
  int32_t best = candidates_[0].id;
  for (size_t i = 1; i < num_candidates_; ++i) {
    if (logit(candidates_[i].id) > logit(best)) best = candidates_[i].id;
  }
  return best;
}

void RowSampler::KeepTypical(double typical_p) {
  double entropy = 0.0;
  for (size_t i = 0; i < num_candidates_; ++i) {
    const double p = candidates_[i].p;
    if (p > 0.0) entropy -= p * std::log(p);
  }
  // `logit` is no longer needed: it takes the distance between the token's surprise and the entropy.
  for (size_t i = 0; i < num_candidates_; ++i) {
    candidates_[i].logit = std::fabs(-std::log(candidates_[i].p) - entropy);
  }
  const auto more_likely = [](const Candidate& a, const Candidate& b) { return a.p != b.p ? a.p > b.p : a.id < b.id; };
  std::sort(candidates_.get(), candidates_.get() + num_candidates_, [&](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : more_likely(a, b);
  });
  double mass = 0.0;
  size_t n = 0;
  while (n < num_candidates_ && mass < typical_p) mass += candidates_[n++].p;
  num_candidates_ = n;
  std::sort(candidates_.get(), candidates_.get() + n, more_likely);
  double sum = 0.0;
  for (size_t i = 0; i < n; ++i) sum += candidates_[i].p;
  for (size_t i = 0; i < n; ++i) candidates_[i].p /= sum;
}

int32_t RowSampler::Draw(const KernelTable& kernels, int vocab, const SampleParams& params) {
  const double temperature{params.temperature};
  const bool typical = params.typical_p > 0.0f && params.typical_p < 1.0f;
  const size_t top_k = params.top_k > 0 ? static_cast<size_t>(params.top_k) : static_cast<size_t>(vocab);
  const double max = Exact(Argmax(keys_, vocab));
  if (std::isinf(max)) return Argmax(keys_, vocab);
  const double u = RandomUniform(params.seed, params.position);
  double total = -1.0;  // sum over the whole row, taken once it is needed
  size_t want = params.top_k > 0 ? top_k : 64;
  if (typical && params.top_k <= 0) want = static_cast<size_t>(vocab);
  if (params.temperature > kFlatTemperature) want = static_cast<size_t>(vocab);
  for (;; want *= 8) {
    const bool all = Gather(keys_, vocab, want);
    Candidate* c = candidates_.get();
    for (size_t i = 0; i < num_candidates_; ++i) {
      c[i].logit = Exact(c[i].id);
      c[i].p = std::exp((c[i].logit - max) / temperature);
    }
    std::sort(c, c + num_candidates_,
              [](const Candidate& a, const Candidate& b) { return a.p != b.p ? a.p > b.p : a.id < b.id; });
    const bool complete = all || params.top_k > 0;  // what is gathered is all that can be drawn
    num_candidates_ = std::min(num_candidates_, top_k);
    double sum = 0.0;
    if (complete) {
      for (size_t i = 0; i < num_candidates_; ++i) sum += c[i].p;
    } else {
      if (total < 0.0) {
        total = kernels.sum_exp(keys_, vocab, static_cast<float>(max), static_cast<float>(1.0 / temperature));
      }
      sum = total;
    }
    for (size_t i = 0; i < num_candidates_; ++i) c[i].p /= sum;
    if (typical) KeepTypical(double{params.typical_p});
    // The length of the prefix that top-p and min-p keep, and its mass.
    const double least = double{params.min_p} * c[0].p;
    double mass = 0.0;
    size_t n = 0;
    bool ended = false;
    for (; n < num_candidates_ && !ended; ++n) {
      if (params.top_p < 1.0f && mass >= double{params.top_p}) ended = true;
      if (c[n].p < least) ended = true;
      if (ended) break;
      mass += c[n].p;
    }
    if (params.top_p < 1.0f && mass >= double{params.top_p}) ended = true;
    if (n == 0) n = 1, mass = c[0].p;  // the most likely token always stays
    const double kept = ended || complete ? mass : 1.0;
    double walked = 0.0;
    const bool must_end_first = !ended && !complete && (params.top_p < 1.0f || params.min_p > 0.0f);
    if (!must_end_first) {
      for (size_t i = 0; i < n; ++i) {
        walked += c[i].p / kept;
        if (u < walked) return c[i].id;
      }
    }
    if (ended || complete) return c[n - 1].id;  // rounded probabilities may end just below u
  }
}

void RowSampler::Describe(const KernelTable& kernels, const float* logits, int vocab, int num_top,
                          SampleResult* result) {
  ScanBlocks(kernels, logits, vocab);
  float max = kNone;
  const size_t blocks = (static_cast<size_t>(vocab) + kScanBlock - 1) / kScanBlock;
  for (size_t b = 0; b < blocks; ++b) max = std::max(max, block_max_[b]);
  const double log_sum = double{max} + std::log(kernels.sum_exp(logits, vocab, max, 1.0f));
  const float own = std::isnan(logits[result->token]) ? kNone : logits[result->token];
  result->logprob = static_cast<float>(double{own} - log_sum);
  int32_t rank = 1;
  for (int i = 0; i < vocab; ++i) {
    const float x = std::isnan(logits[i]) ? kNone : logits[i];
    rank += x > own || (x == own && i < result->token) ? 1 : 0;
  }
  result->rank = rank;
  if (num_top <= 0) return;
  const size_t n = std::min(static_cast<size_t>(num_top), static_cast<size_t>(vocab));
  Gather(logits, vocab, n);
  Candidate* c = candidates_.get();
  for (size_t i = 0; i < num_candidates_; ++i) c[i].logit = double{logits[c[i].id]};
  const size_t kept = std::min(n, num_candidates_);
  std::partial_sort(c, c + kept, c + num_candidates_, [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  for (size_t i = 0; i < kept; ++i) {
    result->top_ids.push_back(c[i].id);
    result->top_logprobs.push_back(static_cast<float>(c[i].logit - log_sum));
  }
}

void RowSampler::Sample(const KernelTable& kernels, const float* logits, int vocab, const SampleParams& params,
                        SampleResult* result) {
  CHECK_GE(vocab, 1);
  result->logprob = 0.0f;
  result->rank = 0;
  result->top_ids.clear();
  result->top_logprobs.clear();
  if (params.forced_token >= 0) {
    CHECK_LT(params.forced_token, vocab);
    result->token = params.forced_token;
  } else {
    Adjust(logits, vocab, params);
    ScanBlocks(kernels, keys_, vocab);
    const size_t blocks = (static_cast<size_t>(vocab) + kScanBlock - 1) / kScanBlock;
    const bool any = std::any_of(block_max_.begin(), block_max_.begin() + static_cast<std::ptrdiff_t>(blocks),
                                 [](float m) { return m > kNone; });
    if (!any) {  // everything is banned: the most likely raw token
      keys_ = logits;
      exact_ = nullptr;
      ScanBlocks(kernels, logits, vocab);
      result->token = Argmax(logits, vocab);
    } else if (params.temperature == 0.0f) {
      result->token = Argmax(keys_, vocab);
    } else {
      result->token = Draw(kernels, vocab, params);
    }
  }
  if (params.num_top >= 0) Describe(kernels, logits, vocab, params.num_top, result);
}

}  // namespace dunlin::kernels::cpu
