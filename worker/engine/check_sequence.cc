#include "worker/engine/check_sequence.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace dunlin::worker {
namespace {

constexpr int32_t kMaxTopLogprobs = 20;

absl::Status CheckIds(absl::string_view field, std::span<const int32_t> ids, int vocab_size) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": token id ", id, " is outside the vocabulary of ", vocab_size, " tokens"));
    }
  }
  return absl::OkStatus();
}

// NaN is in no range.
absl::Status CheckRange(absl::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is outside [", low, ", ", high, "]"));
}

absl::Status CheckSampling(const SamplingSpec& s, int vocab_size) {
  RETURN_IF_ERROR(CheckRange("sampling.temperature", s.temperature, 0, 10));
  if (!(s.top_p > 0.0f && s.top_p <= 1.0f)) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.top_p: ", s.top_p, " is outside (0, 1]"));
  }
  RETURN_IF_ERROR(CheckRange("sampling.top_k", s.top_k, 0, vocab_size));
  RETURN_IF_ERROR(CheckRange("sampling.min_p", s.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("sampling.typical_p", s.typical_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("sampling.presence_penalty", s.presence_penalty, -2, 2));
  RETURN_IF_ERROR(CheckRange("sampling.frequency_penalty", s.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(CheckRange("sampling.repetition_penalty", s.repetition_penalty, 1e-6, 10));
  RETURN_IF_ERROR(CheckRange("sampling.penalty_last_n", s.penalty_last_n, -1, 1 << 30));
  std::vector<int32_t> biased;
  for (const kernels::TokenBias& b : s.logit_bias) {
    if (!std::isfinite(b.bias)) {
      return absl::InvalidArgumentError(absl::StrCat("sampling.logit_bias: ", b.bias, " for token ", b.id));
    }
    biased.push_back(b.id);
  }
  std::sort(biased.begin(), biased.end());
  if (const auto twice = std::adjacent_find(biased.begin(), biased.end()); twice != biased.end()) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.logit_bias: token ", *twice, " occurs twice"));
  }
  RETURN_IF_ERROR(CheckIds("sampling.logit_bias", biased, vocab_size));
  RETURN_IF_ERROR(CheckIds("sampling.allowed_token_ids", s.allowed_tokens, vocab_size));
  return CheckIds("sampling.banned_token_ids", s.banned_tokens, vocab_size);
}

}  // namespace

absl::Status CheckSequence(const NewSequence& sequence, int vocab_size, int max_model_len) {
  CHECK(sequence.stream != nullptr);
  const size_t prompt_tokens = sequence.prompt.size();
  if (prompt_tokens == 0) return absl::InvalidArgumentError("prompt: empty");
  if (prompt_tokens >= static_cast<size_t>(max_model_len)) {
    return absl::OutOfRangeError(absl::StrCat("prompt: ", prompt_tokens, " tokens, but the context of ", max_model_len,
                                              " tokens holds at most ", max_model_len - 1));
  }
  RETURN_IF_ERROR(CheckIds("prompt", sequence.prompt, vocab_size));
  RETURN_IF_ERROR(CheckIds("stop_token_ids", sequence.stop_tokens, vocab_size));
  RETURN_IF_ERROR(CheckRange("max_tokens", sequence.max_tokens, 0, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("min_tokens", sequence.min_tokens, 0, sequence.max_tokens));
  RETURN_IF_ERROR(CheckRange("max_draft_tokens", sequence.max_draft_tokens, 0, INT32_MAX));
  RETURN_IF_ERROR(CheckRange("logprobs", sequence.num_logprobs, -1, std::min(kMaxTopLogprobs, vocab_size)));
  RETURN_IF_ERROR(
      CheckRange("prompt_logprobs", sequence.num_prompt_logprobs, -1, std::min(kMaxTopLogprobs, vocab_size)));
  return CheckSampling(sequence.sampling, vocab_size);
}

}  // namespace dunlin::worker
