#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace dunlin::kernels {
namespace {

constexpr double kNegativeInfinity = -std::numeric_limits<double>::infinity();

// A token that may still be drawn and its probability among those.
struct Candidate {
  int32_t id;
  double p;
};

// Most likely first, lower id first on ties.
bool MoreLikely(const Candidate& a, const Candidate& b) { return a.p != b.p ? a.p > b.p : a.id < b.id; }

void Renormalise(std::vector<Candidate>* candidates) {
  double sum = 0.0;
  for (const Candidate& c : *candidates) sum += c.p;
  for (Candidate& c : *candidates) c.p /= sum;
}

// Log-probabilities of the raw logits, the token's own logprob and rank, and the top list.
void Describe(const std::vector<double>& logits, int32_t token, int num_top, SampleResult* result) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const double l : logits) sum += l == max ? 1.0 : std::exp(l - max);
  const double own = logits[static_cast<size_t>(token)];
  const auto logprob = [max, sum](double l) { return static_cast<float>((l == max ? 0.0 : l - max) - std::log(sum)); };
  result->logprob = logprob(own);
  int32_t rank = 1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > own || (logits[i] == own && static_cast<int32_t>(i) < token)) ++rank;
  }
  result->rank = rank;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t n = std::min(static_cast<size_t>(num_top), logits.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                    [&](int32_t a, int32_t b) {
                      const double la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
                      return la != lb ? la > lb : a < b;
                    });
  for (size_t i = 0; i < n; ++i) {
    result->top_ids.push_back(order[i]);
    result->top_logprobs.push_back(logprob(logits[static_cast<size_t>(order[i])]));
  }
}

// Bias, allowed and banned sets, penalties: in that order, in place.
void Adjust(const SampleParams& params, std::vector<double>* logits) {
  const auto at = [logits](int32_t id) -> double& {
    CHECK(id >= 0 && static_cast<size_t>(id) < logits->size()) << "token id " << id;
    return (*logits)[static_cast<size_t>(id)];
  };
  for (const TokenBias& b : params.biases) at(b.id) += static_cast<double>(b.bias);
  if (!params.allowed.empty()) {
    std::vector<double> kept(logits->size(), kNegativeInfinity);
    for (const int32_t id : params.allowed) kept[static_cast<size_t>(id)] = at(id);
    *logits = std::move(kept);
  }
  for (const int32_t id : params.banned) at(id) = kNegativeInfinity;
  for (const TokenCount& t : params.penalty_tokens) {
    double& l = at(t.id);
    if (l == kNegativeInfinity) continue;
    const auto repetition = static_cast<double>(params.repetition_penalty);
    l = l > 0.0 ? l / repetition : l * repetition;
    if (t.in_output) {
      l -= static_cast<double>(params.frequency_penalty) * t.count + static_cast<double>(params.presence_penalty);
    }
  }
}

// Keeps the tokens whose surprise is closest to the distribution's entropy, up to a mass of typical_p.
void KeepTypical(double typical_p, std::vector<Candidate>* candidates) {
  double entropy = 0.0;
  for (const Candidate& c : *candidates) {
    if (c.p > 0.0) entropy -= c.p * std::log(c.p);
  }
  const auto distance = [entropy](const Candidate& c) { return std::fabs(-std::log(c.p) - entropy); };
  std::stable_sort(candidates->begin(), candidates->end(),
                   [&](const Candidate& a, const Candidate& b) { return distance(a) < distance(b); });
  double mass = 0.0;
  size_t n = 0;
  while (n < candidates->size() && mass < typical_p) mass += (*candidates)[n++].p;
  candidates->resize(n);
  std::sort(candidates->begin(), candidates->end(), MoreLikely);
  Renormalise(candidates);
}

int32_t Draw(const SampleParams& params, const std::vector<double>& logits) {
  const auto temperature = static_cast<double>(params.temperature);
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp((logits[i] - max) / temperature);
    if (p > 0.0) candidates.push_back({static_cast<int32_t>(i), p});
  }
  std::sort(candidates.begin(), candidates.end(), MoreLikely);
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates.size()) {
    candidates.resize(static_cast<size_t>(params.top_k));
  }
  Renormalise(&candidates);
  if (params.typical_p > 0.0f && params.typical_p < 1.0f)
    KeepTypical(static_cast<double>(params.typical_p), &candidates);
  if (params.top_p < 1.0f) {
    double mass = 0.0;
    size_t n = 0;
    while (n < candidates.size() && mass < static_cast<double>(params.top_p)) mass += candidates[n++].p;
    candidates.resize(n);
    Renormalise(&candidates);
  }
  if (params.min_p > 0.0f) {
    const double least = static_cast<double>(params.min_p) * candidates.front().p;
    while (candidates.back().p < least) candidates.pop_back();
    Renormalise(&candidates);
  }
  const double u = RandomUniform(params.seed, params.position);
  double mass = 0.0;
  for (const Candidate& c : candidates) {
    mass += c.p;
    if (u < mass) return c.id;
  }
  return candidates.back().id;  // the sum of the rounded probabilities may end just below u
}

}  // namespace

void SampleReference(const float* logits, int vocab, const SampleParams& params, SampleResult* result) {
  CHECK_GE(vocab, 1);
  std::vector<double> raw(static_cast<size_t>(vocab));
  for (size_t i = 0; i < raw.size(); ++i) {
    raw[i] = std::isnan(logits[i]) ? kNegativeInfinity : static_cast<double>(logits[i]);
  }
  result->logprob = 0.0f;
  result->rank = 0;
  result->top_ids.clear();
  result->top_logprobs.clear();
  if (params.forced_token >= 0) {
    CHECK_LT(params.forced_token, vocab);
    result->token = params.forced_token;
  } else {
    std::vector<double> adjusted = raw;
    Adjust(params, &adjusted);
    const auto best = std::max_element(adjusted.begin(), adjusted.end());
    if (*best == kNegativeInfinity) {
      result->token = static_cast<int32_t>(std::max_element(raw.begin(), raw.end()) - raw.begin());
    } else if (params.temperature == 0.0f || std::isinf(*best)) {
      result->token = static_cast<int32_t>(best - adjusted.begin());
    } else {
      result->token = Draw(params, adjusted);
    }
  }
  if (params.num_top >= 0) Describe(raw, result->token, params.num_top, result);
}

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

uint64_t RandomBits(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> words =
      Philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
             {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (uint64_t{words[1]} << 32) | words[0];
}

double RandomUniform(uint64_t seed, uint64_t position) {
  return static_cast<double>(RandomBits(seed, position) >> 11) * 0x1p-53;
}

}  // namespace dunlin::kernels
