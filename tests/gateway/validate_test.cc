#include "proto/validate.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "grpcpp/support/status.h"
#include "gtest/gtest.h"
#include "proto/limits.h"
#include "proto/status_map.h"
#include "tests/support/status_matchers.h"

namespace dunlin {
namespace {

constexpr int kVocab = 1000;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

v1::GenerateRequest Good() {
  v1::GenerateRequest request;
  request.set_prompt("hi");
  return request;
}

struct BadCase {
  std::string field;
  std::function<void(v1::GenerateRequest*)> spoil;
};

std::vector<BadCase> BadCases() {
  std::vector<BadCase> cases;
  const auto sampling = [&](std::string name, auto setter, std::vector<float> values) {
    for (const float value : values) {
      cases.push_back({"sampling." + name, [setter, value](auto* r) { (r->mutable_sampling()->*setter)(value); }});
    }
  };
  sampling("temperature", &v1::Sampling::set_temperature, {-0.1f, 10.1f, kNan, kInf, -kInf});
  sampling("top_p", &v1::Sampling::set_top_p, {0.0f, 1.01f, kNan, kInf});
  sampling("min_p", &v1::Sampling::set_min_p, {-0.01f, 1.01f, kNan});
  sampling("typical_p", &v1::Sampling::set_typical_p, {-0.01f, 1.01f, kNan});
  sampling("presence_penalty", &v1::Sampling::set_presence_penalty, {-2.1f, 2.1f, kNan});
  sampling("frequency_penalty", &v1::Sampling::set_frequency_penalty, {-2.1f, 2.1f, kInf});
  sampling("repetition_penalty", &v1::Sampling::set_repetition_penalty, {0.0f, 10.1f, kNan});
  const auto add = [&](std::string field, std::function<void(v1::GenerateRequest*)> spoil) {
    cases.push_back({std::move(field), std::move(spoil)});
  };
  add("speculation.max_draft_tokens",
      [](auto* r) { r->mutable_speculation()->set_max_draft_tokens(limits::kMaxDraftTokens + 1); });
  add("sampling.top_k", [](auto* r) { r->mutable_sampling()->set_top_k(kVocab + 1); });
  add("sampling.n", [](auto* r) { r->mutable_sampling()->set_n(0); });
  add("sampling.n", [](auto* r) { r->mutable_sampling()->set_n(17); });
  add("sampling.logit_bias", [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[kVocab] = 1; });
  add("sampling.logit_bias", [](auto* r) { (*r->mutable_sampling()->mutable_logit_bias())[1] = kNan; });
  add("sampling.logit_bias", [](auto* r) {
    for (uint32_t i = 0; i < 1025; ++i)
      (*r->mutable_sampling()->mutable_logit_bias())[i % kVocab + i / kVocab * kVocab] = 0;
  });
  add("sampling.allowed_token_ids[1]", [](auto* r) {
    r->mutable_sampling()->add_allowed_token_ids(1);
    r->mutable_sampling()->add_allowed_token_ids(kVocab);
  });
  add("sampling.banned_token_ids", [](auto* r) {
    for (int i = 0; i < 1025; ++i) r->mutable_sampling()->add_banned_token_ids(1);
  });
  add("stopping.stop", [](auto* r) {
    for (int i = 0; i < 10'000; ++i) r->mutable_stopping()->add_stop("s");
  });
  add("stopping.stop[1]", [](auto* r) {
    r->mutable_stopping()->add_stop("ok");
    r->mutable_stopping()->add_stop("");
  });
  add("stopping.stop[0]", [](auto* r) { r->mutable_stopping()->add_stop(std::string(257, 'x')); });
  add("stopping.stop_token_ids", [](auto* r) {
    for (int i = 0; i < 257; ++i) r->mutable_stopping()->add_stop_token_ids(1);
  });
  add("stopping.stop_token_ids[0]", [](auto* r) { r->mutable_stopping()->add_stop_token_ids(kVocab); });
  add("stopping.max_tokens", [](auto* r) { r->mutable_stopping()->set_max_tokens(0); });
  add("stopping.min_tokens", [](auto* r) {
    r->mutable_stopping()->set_max_tokens(3);
    r->mutable_stopping()->set_min_tokens(4);
  });
  add("stopping.max_time_ms", [](auto* r) { r->mutable_stopping()->set_max_time_ms(0); });
  add("output.logprobs", [](auto* r) { r->mutable_output()->set_logprobs(21); });
  add("output.prompt_logprobs", [](auto* r) { r->mutable_output()->set_prompt_logprobs(21); });
  add("request_id", [](auto* r) { r->set_request_id(std::string(129, 'x')); });
  add("model", [](auto* r) { r->set_model(std::string(129, 'x')); });
  add("adapter", [](auto* r) { r->set_adapter(std::string(129, 'x')); });
  add("cache.salt", [](auto* r) { r->mutable_cache()->set_salt(std::string(129, 'x')); });
  add("cache.mode", [](auto* r) { r->mutable_cache()->set_mode(static_cast<v1::Cache::Mode>(9)); });
  add("prompt", [](auto* r) { r->set_prompt(""); });
  add("prompt", [](auto* r) { r->clear_input(); });
  add("token_ids.ids", [](auto* r) { r->mutable_token_ids(); });
  add("token_ids.ids[0]", [](auto* r) { r->mutable_token_ids()->add_ids(kVocab); });
  add("chat.messages", [](auto* r) { r->mutable_chat(); });
  add("chat.messages[0].role", [](auto* r) { r->mutable_chat()->add_messages()->set_content("hi"); });
  add("truncate_prompt.side",
      [](auto* r) { r->mutable_truncate_prompt()->set_side(static_cast<v1::TruncatePrompt::Side>(5)); });
  add("truncate_prompt.max_tokens", [](auto* r) { r->mutable_truncate_prompt()->set_max_tokens(0); });
  return cases;
}

TEST(Validate, EveryLimitIsRefusedWithItsFieldsPath) {
  for (const BadCase& bad : BadCases()) {
    v1::GenerateRequest request = Good();
    bad.spoil(&request);
    const absl::Status status = ValidateGenerateRequest(request, kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.field << ": " << status;
    const std::vector<FieldViolation> violations = GetFieldViolations(status);
    ASSERT_FALSE(violations.empty()) << bad.field;
    EXPECT_EQ(violations[0].field, bad.field) << status;
  }
}

TEST(Validate, TheEdgesOfEveryRangeAreAllowed) {
  v1::GenerateRequest request = Good();
  v1::Sampling* s = request.mutable_sampling();
  for (const bool high : {false, true}) {
    s->set_temperature(high ? 10.0f : 0.0f);
    s->set_top_p(high ? 1.0f : 1e-6f);
    s->set_min_p(high ? 1.0f : 0.0f);
    s->set_typical_p(high ? 1.0f : 0.0f);
    s->set_presence_penalty(high ? 2.0f : -2.0f);
    s->set_frequency_penalty(high ? 2.0f : -2.0f);
    s->set_repetition_penalty(high ? 10.0f : 1e-6f);
    s->set_top_k(high ? kVocab : 0);
    s->set_n(high ? 16 : 1);
    EXPECT_OK(ValidateGenerateRequest(request, kVocab));
  }
  for (int i = 0; i < 16; ++i) request.mutable_stopping()->add_stop(std::string(256, 'x'));
  for (int i = 0; i < 256; ++i) request.mutable_stopping()->add_stop_token_ids(kVocab - 1);
  request.mutable_output()->set_logprobs(20);
  request.mutable_output()->set_prompt_logprobs(20);
  request.mutable_stopping()->set_max_tokens(0);  // allowed, because prompt_logprobs is asked
  request.mutable_speculation()->set_max_draft_tokens(limits::kMaxDraftTokens);
  request.set_request_id(std::string(128, 'x'));
  EXPECT_OK(ValidateGenerateRequest(request, kVocab));
}

TEST(Validate, FeaturesThatAreNotBuiltAreNamed) {
  const auto feature = [](const std::function<void(v1::GenerateRequest*)>& ask) {
    v1::GenerateRequest request = Good();
    ask(&request);
    const absl::Status status = ValidateGenerateRequest(request, kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    const auto info = GetErrorInfo(status);
    return info.has_value() ? info->metadata.at("feature") : "";
  };
  EXPECT_EQ(feature([](auto* r) { r->set_adapter("a"); }), "adapter");
  EXPECT_EQ(feature([](auto* r) { r->mutable_constraint()->set_json_schema("{}"); }), "constraint.json_schema");
  EXPECT_EQ(feature([](auto* r) { r->mutable_constraint()->set_json_object(true); }), "constraint.json_object");
  EXPECT_EQ(feature([](auto* r) { r->mutable_constraint()->set_regex("a"); }), "constraint.regex");
  EXPECT_EQ(feature([](auto* r) { r->mutable_constraint()->set_grammar("a"); }), "constraint.grammar");
  EXPECT_EQ(feature([](auto* r) { r->mutable_constraint()->mutable_choice(); }), "constraint.choice");
}

TEST(Validate, ManyViolationsAreCountedButFewAreAttached) {
  v1::GenerateRequest request = Good();
  for (int i = 0; i < 100'000; ++i) request.mutable_sampling()->add_allowed_token_ids(kVocab + 1);
  const absl::Status status = ValidateGenerateRequest(request, kVocab);
  EXPECT_LE(GetFieldViolations(status).size(), static_cast<size_t>(limits::kMaxReportedViolations));
  EXPECT_LT(ToGrpcStatus(status).error_details().size(), 4096u);
}

TEST(StatusMap, DetailsSurviveTheWire) {
  absl::Status status = absl::ResourceExhaustedError("full");
  AttachErrorInfo("QUEUE_FULL", {{"a", "b"}}, &status);
  AttachRetryInfo(absl::Milliseconds(1500), &status);
  AttachQuotaFailure("gateway:queue", "limit 3", &status);
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(back, status);
  EXPECT_EQ(GetErrorInfo(back)->metadata.at("a"), "b");
  EXPECT_EQ(GetRetryDelay(back), absl::Milliseconds(1500));
  EXPECT_EQ(GetQuotaViolations(back)[0].description, "limit 3");
}

TEST(StatusMap, EveryCodeMapsThereAndBack) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "m");
    EXPECT_EQ(static_cast<int>(ToGrpcStatus(status).error_code()), code);
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  }
  EXPECT_EQ(AllCodeNames().size(), 17u);
  EXPECT_EQ(CodeName(absl::StatusCode::kResourceExhausted), "RESOURCE_EXHAUSTED");
  EXPECT_EQ(CodeName(static_cast<absl::StatusCode>(99)), "UNKNOWN");
}

TEST(StatusMap, LongMessagesAreCutAtACodePoint) {
  std::string message;
  while (message.size() < 3000) message += "é";
  const std::string cut = ToGrpcStatus(absl::InternalError("x" + message)).error_message();
  EXPECT_LE(cut.size(), limits::kMaxStatusMessageBytes);
  EXPECT_EQ(cut.size() % 2, 1u);  // x and whole two-byte characters
}

}  // namespace
}  // namespace dunlin
