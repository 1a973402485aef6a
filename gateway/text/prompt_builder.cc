#include "gateway/text/prompt_builder.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/value.h"
#include "nlohmann/json.hpp"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

using model::Value;
using Variables = std::vector<std::pair<std::string, Value>>;

absl::Status FieldError(absl::string_view field, absl::string_view problem) {
  return BadRequestError({{std::string(field), std::string(problem)}});
}

// Names the request's field in an error from below; the code stays.
absl::Status InField(absl::string_view field, const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return FieldError(field, status.message());
  return absl::Status(status.code(), absl::StrCat(field, ": ", status.message()));
}

// Everything that a client wrote is marked as input, so that special-token text in it stays text.
absl::StatusOr<Value> MessageValue(const v1::ChatMessage& message, int index) {
  Variables members;
  members.emplace_back("role", Value::Input(message.role()));
  members.emplace_back("content", Value::Input(message.content()));
  if (!message.name().empty()) members.emplace_back("name", Value::Input(message.name()));
  if (!message.tool_call_id().empty()) members.emplace_back("tool_call_id", Value::Input(message.tool_call_id()));
  if (!message.tool_calls().empty()) {
    absl::StatusOr<Value> calls = model::ParseJsonValue(message.tool_calls(), /*mark_input=*/true);
    if (!calls.ok()) return InField(absl::StrCat("chat.messages[", index, "].tool_calls"), calls.status());
    members.emplace_back("tool_calls", *std::move(calls));
  }
  return Value::Dict(std::move(members));
}

bool IsReservedVariable(const std::string& name) {
  return name == "messages" || name == "tools" || name == "add_generation_prompt" || name == "bos_token" ||
         name == "eos_token";
}

absl::Status AppendTemplateKwargs(const std::string& json, Variables* variables) {
  constexpr absl::string_view kField = "chat.template_kwargs";
  // Also bounds the nesting, which the second parser's recursion relies on.
  if (const absl::Status status = model::ParseJsonValue(json, true).status(); !status.ok()) {
    return InField(kField, status);
  }
  const auto object = nlohmann::ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return FieldError(kField, "is not a JSON object");
  for (const auto& [name, value] : object.items()) {
    if (IsReservedVariable(name)) return FieldError(kField, absl::StrCat("sets '", name, "', which the server sets"));
    absl::StatusOr<Value> parsed = model::ParseJsonValue(value.dump(), true);
    if (!parsed.ok()) return InField(kField, parsed.status());
    variables->emplace_back(name, *std::move(parsed));
  }
  return absl::OkStatus();
}

std::string TokenText(const model::Tokenizer& tokenizer, model::TokenId id) {
  return id < 0 ? std::string() : std::string(tokenizer.TokenBytes(id, /*special_text=*/true));
}

absl::StatusOr<Variables> TemplateVariables(const v1::ChatInput& chat, const model::Tokenizer& tokenizer) {
  std::vector<Value> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    ASSIGN_OR_RETURN(Value message, MessageValue(chat.messages(i), i));
    messages.push_back(std::move(message));
  }
  Variables variables;
  variables.emplace_back("messages", Value::List(std::move(messages)));
  if (!chat.tools().empty()) {
    absl::StatusOr<Value> tools = model::ParseJsonValue(chat.tools(), /*mark_input=*/true);
    if (!tools.ok()) return InField("chat.tools", tools.status());
    variables.emplace_back("tools", *std::move(tools));
  }
  const bool add_generation_prompt = !chat.has_add_generation_prompt() || chat.add_generation_prompt();
  variables.emplace_back("add_generation_prompt", Value::Bool(add_generation_prompt));
  variables.emplace_back("bos_token", Value::String(TokenText(tokenizer, tokenizer.bos_id())));
  variables.emplace_back("eos_token", Value::String(TokenText(tokenizer, tokenizer.eos_id())));
  if (!chat.template_kwargs().empty()) RETURN_IF_ERROR(AppendTemplateKwargs(chat.template_kwargs(), &variables));
  return variables;
}

}  // namespace

absl::StatusOr<std::vector<model::TokenId>> PromptBuilder::EncodeChat(const v1::ChatInput& chat,
                                                                      absl::CivilSecond local_now) const {
  if (chat_template_ == nullptr) {
    return absl::FailedPreconditionError("chat: the model has no chat template; send prompt or token_ids instead");
  }
  ASSIGN_OR_RETURN(Variables variables, TemplateVariables(chat, *tokenizer_));
  absl::StatusOr<model::ChatTemplate::Rendered> rendered =
      chat_template_->Render(Value::Dict(std::move(variables)), local_now);
  if (!rendered.ok()) return InField("chat", rendered.status());
  // The template writes BOS itself where the model wants one.
  absl::StatusOr<std::vector<model::TokenId>> ids =
      tokenizer_->EncodeSegments(rendered->segments, /*add_special=*/false);
  if (!ids.ok()) return InField("chat", ids.status());
  return ids;
}

absl::StatusOr<std::vector<uint32_t>> PromptBuilder::Build(const v1::GenerateRequest& request, uint32_t context_tokens,
                                                           absl::CivilSecond local_now) const {
  std::vector<uint32_t> ids;
  switch (request.input_case()) {
    case v1::GenerateRequest::kTokenIds:
      ids.assign(request.token_ids().ids().begin(), request.token_ids().ids().end());
      break;
    case v1::GenerateRequest::kPrompt: {
      const bool parse_special = !request.has_parse_special() || request.parse_special();
      const auto encoded = tokenizer_->Encode(request.prompt(), {.add_special = true, .parse_special = parse_special});
      if (!encoded.ok()) return InField("prompt", encoded.status());
      ids.assign(encoded->begin(), encoded->end());
      break;
    }
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(const std::vector<model::TokenId> encoded, EncodeChat(request.chat(), local_now));
      ids.assign(encoded.begin(), encoded.end());
      break;
    }
    case v1::GenerateRequest::INPUT_NOT_SET:
      return FieldError("prompt", "is missing");
  }
  if (ids.empty()) return FieldError(request.has_chat() ? "chat" : "prompt", "gives no token");
  const size_t limit = context_tokens > 0 ? context_tokens - 1 : 0;
  if (request.has_truncate_prompt()) {
    const v1::TruncatePrompt& truncate = request.truncate_prompt();
    const size_t wanted = truncate.has_max_tokens() ? truncate.max_tokens() : limit;
    TruncateTokens(truncate.side(), std::min(wanted, limit), &ids);
  }
  if (ids.size() > limit) {
    absl::Status status =
        absl::OutOfRangeError(absl::StrCat("prompt has ", ids.size(), " tokens, the context of ", context_tokens,
                                           " tokens leaves room for at most ", limit));
    AttachErrorInfo("PROMPT_TOO_LONG",
                    {{"prompt_tokens", absl::StrCat(ids.size())}, {"max_prompt_tokens", absl::StrCat(limit)}}, &status);
    return status;
  }
  return ids;
}

void TruncateTokens(v1::TruncatePrompt::Side side, size_t max_tokens, std::vector<uint32_t>* ids) {
  if (ids->size() <= max_tokens) return;
  if (side == v1::TruncatePrompt::SIDE_RIGHT) {
    ids->resize(max_tokens);
  } else {
    ids->erase(ids->begin(), ids->end() - static_cast<std::ptrdiff_t>(max_tokens));
  }
}

}  // namespace dunlin::gateway
