// What one sequence must generate, in the plainest code: the fake model's logits after every prefix, parameters rebuilt
// from the request for every token, the stop rules one after another. Knows no batch, page, chunk or increment: the
// oracle of the engine's random test.
// Thread-safety: pure.  Cost: O(tokens^2).
#ifndef DUNLIN_TESTS_WORKER_ENGINE_NAIVE_GENERATION_H_
#define DUNLIN_TESTS_WORKER_ENGINE_NAIVE_GENERATION_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "kernels/sampling.h"
#include "worker/engine/engine.h"
#include "worker/runners/fake_runner.h"

namespace dunlin::testing {

struct NaiveGeneration {
  std::vector<int32_t> tokens;
  std::vector<kernels::SampleResult> logprobs;         // parallel to tokens
  std::vector<kernels::SampleResult> prompt_logprobs;  // of prompt tokens 1…
  worker::FinishCause cause = worker::FinishCause::kLength;
  int32_t stop_token = -1;
};

// Penalty counts of the last `window` tokens (-1 = all) of prompt and output, by counting them.
inline std::vector<kernels::TokenCount> CountTokens(const std::vector<int32_t>& tokens, size_t prompt_tokens,
                                                    int32_t window) {
  const size_t from = window < 0 ? 0 : tokens.size() - std::min(tokens.size(), static_cast<size_t>(window));
  std::map<int32_t, std::pair<int32_t, int32_t>> counts;  // id -> in prompt, in output
  for (size_t i = from; i < tokens.size(); ++i) {
    ++(i < prompt_tokens ? counts[tokens[i]].first : counts[tokens[i]].second);
  }
  std::vector<kernels::TokenCount> out;
  for (const auto& [id, n] : counts) out.push_back({id, n.second > 0 ? n.second : n.first, n.second > 0});
  return out;
}

inline NaiveGeneration GenerateAlone(const worker::NewSequence& request, const std::vector<int32_t>& end_of_generation,
                                     size_t context_tokens, const worker::FakeRunner& model) {
  const auto contains = [](const std::vector<int32_t>& v, int32_t x) {
    return std::find(v.begin(), v.end(), x) != v.end();
  };
  NaiveGeneration out;
  std::vector<float> logits;
  const auto sample = [&](const std::vector<int32_t>& prefix, const kernels::SampleParams& params) {
    kernels::SampleResult result;
    model.Logits(prefix, &logits);
    kernels::SampleReference(logits.data(), static_cast<int>(logits.size()), params, &result);
    return result;
  };
  std::vector<int32_t> tokens;
  for (const int32_t token : request.prompt) {
    if (!tokens.empty() && request.num_prompt_logprobs >= 0) {
      kernels::SampleParams judge;
      judge.forced_token = token;
      judge.num_top = request.num_prompt_logprobs;
      out.prompt_logprobs.push_back(sample(tokens, judge));
    }
    tokens.push_back(token);
  }
  const worker::SamplingSpec& s = request.sampling;
  for (int32_t drawn = 0; drawn < request.max_tokens; ++drawn) {
    if (tokens.size() == context_tokens) {
      out.cause = worker::FinishCause::kContextFull;
      return out;
    }
    const bool may_end = drawn >= request.min_tokens;
    std::vector<int32_t> banned = s.banned_tokens;
    if (!may_end) {
      banned.insert(banned.end(), request.stop_tokens.begin(), request.stop_tokens.end());
      if (!request.ignore_eos) banned.insert(banned.end(), end_of_generation.begin(), end_of_generation.end());
    }
    const std::vector<kernels::TokenCount> counts = CountTokens(tokens, request.prompt.size(), s.penalty_last_n);
    kernels::SampleParams p;
    p.temperature = s.temperature;
    p.top_k = s.top_k;
    p.top_p = s.top_p;
    p.min_p = s.min_p;
    p.typical_p = s.typical_p;
    p.repetition_penalty = s.repetition_penalty;
    p.frequency_penalty = s.frequency_penalty;
    p.presence_penalty = s.presence_penalty;
    p.seed = s.seed;
    p.position = tokens.size();
    p.penalty_tokens = counts;
    p.biases = s.logit_bias;
    p.allowed = s.allowed_tokens;
    p.banned = banned;
    p.num_top = request.num_logprobs;
    out.logprobs.push_back(sample(tokens, p));
    const int32_t token = out.logprobs.back().token;
    tokens.push_back(token);
    out.tokens.push_back(token);
    if (!may_end) continue;
    if (!request.ignore_eos && contains(end_of_generation, token)) {
      out.cause = worker::FinishCause::kEos;
      return out;
    }
    if (contains(request.stop_tokens, token)) {
      out.cause = worker::FinishCause::kStopToken;
      out.stop_token = token;
      return out;
    }
  }
  return out;
}

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_ENGINE_NAIVE_GENERATION_H_
