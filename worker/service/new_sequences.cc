#include "worker/service/new_sequences.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/limits.h"
#include "proto/validate.h"

namespace dunlin::worker {
namespace {

using dunlin::v1::Cache;

absl::Status CheckMaxTime(const google::protobuf::Duration& d) {
  constexpr int64_t kMaxSeconds = 365 * 24 * 3600;
  if (d.seconds() < 0 || d.seconds() > kMaxSeconds || d.nanos() < 0 || d.nanos() > 999'999'999) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_time: ", d.seconds(), " s ", d.nanos(), " ns, must be between 0 and ", kMaxSeconds, " s"));
  }
  return absl::OkStatus();
}

absl::Status CheckBytes(absl::string_view field, const std::string& value, size_t max) {
  if (value.size() <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": has ", value.size(), " bytes, at most ", max, " are allowed"));
}

// The limits are those of the public API; the request is put into its words to be judged by the same table.
absl::Status Check(const v1::GenerateRequest& request, const RunnerInfo& runner) {
  const int prompt = request.prompt_ids_size();
  if (prompt >= runner.max_model_len) {
    return absl::OutOfRangeError(absl::StrCat("prompt: ", prompt, " tokens, at most ", runner.max_model_len - 1,
                                              " fit the context of ", runner.max_model_len));
  }
  if (request.num_choices() < 1 || request.num_choices() > limits::kMaxChoices) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_choices: is ", request.num_choices(), ", must be in [1, ", limits::kMaxChoices, "]"));
  }
  RETURN_IF_ERROR(CheckBytes("cache_namespace", request.cache_namespace(), limits::kMaxCacheNamespaceBytes));
  RETURN_IF_ERROR(CheckBytes("tenant", request.tenant(), limits::kMaxTenantBytes));
  if (request.priority() < -limits::kMaxAbsPriority || request.priority() > limits::kMaxAbsPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority: is ", request.priority(), ", must be in [",
                                                   -limits::kMaxAbsPriority, ", ", limits::kMaxAbsPriority, "]"));
  }
  if (request.has_max_time()) RETURN_IF_ERROR(CheckMaxTime(request.max_time()));
  dunlin::v1::GenerateRequest judged;
  judged.set_request_id(request.request_id());
  *judged.mutable_token_ids()->mutable_ids() = request.prompt_ids();
  *judged.mutable_sampling() = request.sampling();
  judged.mutable_sampling()->clear_n();  // num_choices says it
  judged.mutable_stopping()->set_max_tokens(request.max_tokens());
  judged.mutable_stopping()->set_min_tokens(request.min_tokens());
  *judged.mutable_stopping()->mutable_stop_token_ids() = request.stop_token_ids();
  if (request.has_logprobs()) judged.mutable_output()->set_logprobs(request.logprobs());
  if (request.has_prompt_logprobs()) judged.mutable_output()->set_prompt_logprobs(request.prompt_logprobs());
  if (request.has_max_draft_tokens()) {
    judged.mutable_speculation()->set_max_draft_tokens(request.max_draft_tokens());
  }
  judged.mutable_cache()->set_mode(request.cache_mode());
  return ValidateGenerateRequest(judged, runner.vocab_size);
}

template <typename Ids>
std::vector<int32_t> ToInts(const Ids& ids) {
  return {ids.begin(), ids.end()};
}

// Ascending, each once.
template <typename Ids>
std::vector<int32_t> ToSet(const Ids& ids) {
  std::vector<int32_t> out = ToInts(ids);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

SamplingSpec MakeSampling(const dunlin::v1::Sampling& s) {
  SamplingSpec spec;
  if (s.has_temperature()) spec.temperature = s.temperature();
  if (s.has_top_p()) spec.top_p = s.top_p();
  if (s.has_top_k()) spec.top_k = static_cast<int32_t>(s.top_k());
  if (s.has_min_p()) spec.min_p = s.min_p();
  if (s.has_typical_p()) spec.typical_p = s.typical_p();
  if (s.has_presence_penalty()) spec.presence_penalty = s.presence_penalty();
  if (s.has_frequency_penalty()) spec.frequency_penalty = s.frequency_penalty();
  if (s.has_repetition_penalty()) spec.repetition_penalty = s.repetition_penalty();
  if (s.has_penalty_last_n()) {
    spec.penalty_last_n = static_cast<int32_t>(std::min<uint32_t>(s.penalty_last_n(), INT32_MAX));
  }
  spec.seed = s.seed();
  for (const auto& [id, bias] : s.logit_bias()) spec.logit_bias.push_back({static_cast<int32_t>(id), bias});
  // A map has no order; the engine's arithmetic must not depend on it.
  std::sort(spec.logit_bias.begin(), spec.logit_bias.end(),
            [](const kernels::TokenBias& a, const kernels::TokenBias& b) { return a.id < b.id; });
  spec.allowed_tokens = ToSet(s.allowed_token_ids());
  spec.banned_tokens = ToSet(s.banned_token_ids());
  return spec;
}

}  // namespace

absl::StatusOr<std::vector<NewSequence>> MakeSequences(const v1::GenerateRequest& request, const RunnerInfo& runner,
                                                       absl::Time deadline) {
  RETURN_IF_ERROR(Check(request, runner));
  const uint32_t context = static_cast<uint32_t>(runner.max_model_len);
  NewSequence sequence;
  sequence.request_id = request.request_id();
  sequence.prompt = ToInts(request.prompt_ids());
  sequence.sampling = MakeSampling(request.sampling());
  sequence.max_tokens = static_cast<int32_t>(std::min(request.max_tokens(), context));
  sequence.min_tokens = static_cast<int32_t>(std::min(request.min_tokens(), context));
  sequence.stop_tokens = ToSet(request.stop_token_ids());
  sequence.ignore_eos = request.ignore_eos();
  if (request.has_logprobs()) sequence.num_logprobs = static_cast<int32_t>(request.logprobs());
  sequence.deadline = deadline;
  if (request.has_max_time()) {
    sequence.max_time = absl::Seconds(request.max_time().seconds()) + absl::Nanoseconds(request.max_time().nanos());
  }
  if (request.has_max_draft_tokens()) sequence.max_draft_tokens = static_cast<int32_t>(request.max_draft_tokens());
  sequence.tenant = request.tenant();
  sequence.priority = request.priority();
  sequence.cache_namespace = request.cache_namespace();
  sequence.cache_read = request.cache_mode() != Cache::MODE_BYPASS;
  sequence.cache_write = request.cache_mode() == Cache::MODE_UNSPECIFIED || request.cache_mode() == Cache::MODE_USE;
  std::vector<NewSequence> sequences(request.num_choices(), sequence);
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].stream = std::make_shared<TokenStream>();
    sequences[i].sampling.seed += i;  // wraps
    // A choice that generates nothing exists for the prompt alone.
    const bool judges = request.has_prompt_logprobs() && (i == 0 || request.max_tokens() == 0);
    if (judges) sequences[i].num_prompt_logprobs = static_cast<int32_t>(request.prompt_logprobs());
  }
  return sequences;
}

}  // namespace dunlin::worker
