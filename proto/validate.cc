#include "proto/validate.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/limits.h"
#include "proto/status_map.h"

namespace dunlin {
namespace {

// Collects violations; stops storing (not counting) once more than can be reported were found.
class Violations {
 public:
  void Add(std::string field, std::string description) { found_.push_back({std::move(field), std::move(description)}); }
  // True when no more checks of a long list are worth it.
  bool Full() const { return found_.size() >= static_cast<size_t>(limits::kMaxReportedViolations); }
  absl::Status ToStatus() const { return found_.empty() ? absl::OkStatus() : BadRequestError(found_); }

 private:
  std::vector<FieldViolation> found_;
};

// min <= value <= max, or min < value when `open_below`; false for NaN.
void CheckRange(absl::string_view field, float value, float min, bool open_below, float max, Violations* out) {
  const bool ok = std::isfinite(value) && (open_below ? value > min : value >= min) && value <= max;
  if (ok) return;
  out->Add(std::string(field),
           absl::StrCat("is ", value, ", must be in ", open_below ? "(" : "[", min, ", ", max, "]"));
}

void CheckCount(absl::string_view field, size_t count, size_t max, absl::string_view what, Violations* out) {
  if (count > max)
    out->Add(std::string(field), absl::StrCat("has ", count, " ", what, ", at most ", max, " are allowed"));
}

void CheckId(absl::string_view field, uint32_t id, int vocab_size, Violations* out) {
  if (id >= static_cast<uint32_t>(vocab_size)) {
    out->Add(std::string(field), absl::StrCat("is ", id, ", must be below the vocabulary size ", vocab_size));
  }
}

template <typename Ids>
void CheckIds(absl::string_view field, const Ids& ids, int vocab_size, Violations* out) {
  for (int i = 0; i < ids.size() && !out->Full(); ++i) {
    if (ids[i] < static_cast<uint32_t>(vocab_size)) continue;  // before a name is built: there may be a million of them
    CheckId(absl::StrCat(field, "[", i, "]"), ids[i], vocab_size, out);
  }
}

void CheckName(absl::string_view field, const std::string& value, Violations* out) {
  CheckCount(field, value.size(), limits::kMaxNameBytes, "bytes", out);
}

void CheckInput(const v1::GenerateRequest& request, int vocab_size, Violations* out) {
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt:
      if (request.prompt().empty()) out->Add("prompt", "is empty");
      return;
    case v1::GenerateRequest::kTokenIds:
      if (request.token_ids().ids().empty()) out->Add("token_ids.ids", "is empty");
      CheckIds("token_ids.ids", request.token_ids().ids(), vocab_size, out);
      return;
    case v1::GenerateRequest::kChat: {
      const auto& messages = request.chat().messages();
      if (messages.empty()) out->Add("chat.messages", "is empty");
      for (int i = 0; i < messages.size() && !out->Full(); ++i) {
        if (messages[i].role().empty()) out->Add(absl::StrCat("chat.messages[", i, "].role"), "is empty");
      }
      return;
    }
    case v1::GenerateRequest::INPUT_NOT_SET:
      out->Add("prompt", "is missing; one of prompt, token_ids and chat must be set");
      return;
  }
}

void CheckPenalties(const v1::Sampling& s, Violations* out) {
  const float max = limits::kMaxAbsPenalty;
  if (s.has_presence_penalty()) CheckRange("sampling.presence_penalty", s.presence_penalty(), -max, false, max, out);
  if (s.has_frequency_penalty()) CheckRange("sampling.frequency_penalty", s.frequency_penalty(), -max, false, max, out);
  if (s.has_repetition_penalty()) {
    CheckRange("sampling.repetition_penalty", s.repetition_penalty(), 0, true, limits::kMaxRepetitionPenalty, out);
  }
}

void CheckSampling(const v1::Sampling& s, int vocab_size, Violations* out) {
  if (s.has_temperature()) CheckRange("sampling.temperature", s.temperature(), 0, false, limits::kMaxTemperature, out);
  if (s.has_top_p()) CheckRange("sampling.top_p", s.top_p(), 0, true, 1, out);
  if (s.has_min_p()) CheckRange("sampling.min_p", s.min_p(), 0, false, 1, out);
  if (s.has_typical_p()) CheckRange("sampling.typical_p", s.typical_p(), 0, false, 1, out);
  CheckPenalties(s, out);
  if (s.has_top_k() && s.top_k() > static_cast<uint32_t>(vocab_size)) {
    out->Add("sampling.top_k", absl::StrCat("is ", s.top_k(), ", must be at most the vocabulary size ", vocab_size));
  }
  if (s.has_n() && (s.n() < 1 || s.n() > limits::kMaxChoices)) {
    out->Add("sampling.n", absl::StrCat("is ", s.n(), ", must be in [1, ", limits::kMaxChoices, "]"));
  }
  CheckCount("sampling.logit_bias", s.logit_bias().size(), limits::kMaxTokenListEntries, "entries", out);
  for (const auto& [id, bias] : s.logit_bias()) {
    if (out->Full()) break;
    CheckId("sampling.logit_bias", id, vocab_size, out);
    if (!std::isfinite(bias))
      out->Add("sampling.logit_bias", absl::StrCat("of token ", id, " is ", bias, ", must be finite"));
  }
  CheckCount("sampling.allowed_token_ids", static_cast<size_t>(s.allowed_token_ids_size()),
             limits::kMaxTokenListEntries, "ids", out);
  CheckIds("sampling.allowed_token_ids", s.allowed_token_ids(), vocab_size, out);
  CheckCount("sampling.banned_token_ids", static_cast<size_t>(s.banned_token_ids_size()), limits::kMaxTokenListEntries,
             "ids", out);
  CheckIds("sampling.banned_token_ids", s.banned_token_ids(), vocab_size, out);
}

void CheckStopping(const v1::GenerateRequest& request, int vocab_size, Violations* out) {
  const v1::Stopping& s = request.stopping();
  CheckCount("stopping.stop", static_cast<size_t>(s.stop_size()), limits::kMaxStopStrings, "strings", out);
  for (int i = 0; i < s.stop_size() && !out->Full(); ++i) {
    const std::string field = absl::StrCat("stopping.stop[", i, "]");
    if (s.stop(i).empty()) out->Add(field, "is empty");
    CheckCount(field, s.stop(i).size(), limits::kMaxStopBytes, "bytes", out);
  }
  CheckCount("stopping.stop_token_ids", static_cast<size_t>(s.stop_token_ids_size()), limits::kMaxStopTokenIds, "ids",
             out);
  CheckIds("stopping.stop_token_ids", s.stop_token_ids(), vocab_size, out);
  const bool judges_prompt = request.output().echo() || request.output().has_prompt_logprobs();
  if (s.has_max_tokens() && s.max_tokens() == 0 && !judges_prompt) {
    out->Add("stopping.max_tokens", "is 0, must be at least 1 unless output.echo or output.prompt_logprobs is set");
  }
  if (s.has_max_tokens() && s.min_tokens() > s.max_tokens()) {
    out->Add("stopping.min_tokens",
             absl::StrCat("is ", s.min_tokens(), ", must be at most max_tokens ", s.max_tokens()));
  }
  if (s.has_max_time_ms() && s.max_time_ms() == 0) out->Add("stopping.max_time_ms", "is 0, must be at least 1");
}

void CheckOutput(const v1::Output& o, Violations* out) {
  const auto check = [out](absl::string_view field, uint32_t value) {
    if (value > limits::kMaxLogprobs) {
      out->Add(std::string(field), absl::StrCat("is ", value, ", must be at most ", limits::kMaxLogprobs));
    }
  };
  if (o.has_logprobs()) check("output.logprobs", o.logprobs());
  if (o.has_prompt_logprobs()) check("output.prompt_logprobs", o.prompt_logprobs());
}

void CheckRest(const v1::GenerateRequest& request, Violations* out) {
  // proto3 enums are open: a number that no name has arrives as it is.
  if (!v1::Cache::Mode_IsValid(request.cache().mode())) {
    out->Add("cache.mode", absl::StrCat("is ", static_cast<int>(request.cache().mode()), ", which names no mode"));
  }
  const v1::TruncatePrompt& truncate = request.truncate_prompt();
  if (!v1::TruncatePrompt::Side_IsValid(truncate.side())) {
    out->Add("truncate_prompt.side", absl::StrCat("is ", static_cast<int>(truncate.side()), ", which names no side"));
  }
  if (const uint32_t drafts = request.speculation().max_draft_tokens(); drafts > limits::kMaxDraftTokens) {
    out->Add("speculation.max_draft_tokens",
             absl::StrCat("is ", drafts, ", must be at most ", limits::kMaxDraftTokens));
  }
  if (truncate.has_max_tokens() && truncate.max_tokens() == 0) {
    out->Add("truncate_prompt.max_tokens", "is 0, must be at least 1");
  }
}

// "" when everything asked for is built.
absl::string_view FeatureNotBuilt(const v1::GenerateRequest& request) {
  if (!request.adapter().empty()) return "adapter";
  switch (request.constraint().kind_case()) {
    case v1::Constraint::kJsonSchema:
      return "constraint.json_schema";
    case v1::Constraint::kJsonObject:
      return request.constraint().json_object() ? "constraint.json_object" : "";
    case v1::Constraint::kRegex:
      return "constraint.regex";
    case v1::Constraint::kGrammar:
      return "constraint.grammar";
    case v1::Constraint::kChoice:
      return "constraint.choice";
    case v1::Constraint::KIND_NOT_SET:
      return "";
  }
  return "";
}

}  // namespace

absl::Status NotBuiltError(absl::string_view feature) {
  absl::Status status = absl::UnimplementedError(absl::StrCat(feature, " is not built"));
  AttachErrorInfo("NOT_BUILT", {{"feature", std::string(feature)}}, &status);
  return status;
}

absl::Status ValidateGenerateRequest(const v1::GenerateRequest& request, int vocab_size) {
  Violations violations;
  CheckName("request_id", request.request_id(), &violations);
  CheckName("model", request.model(), &violations);
  CheckName("adapter", request.adapter(), &violations);
  CheckName("cache.salt", request.cache().salt(), &violations);
  CheckInput(request, vocab_size, &violations);
  CheckSampling(request.sampling(), vocab_size, &violations);
  CheckStopping(request, vocab_size, &violations);
  CheckOutput(request.output(), &violations);
  CheckRest(request, &violations);
  if (absl::Status status = violations.ToStatus(); !status.ok()) return status;
  if (const absl::string_view feature = FeatureNotBuilt(request); !feature.empty()) return NotBuiltError(feature);
  return absl::OkStatus();
}

}  // namespace dunlin
