// From a request's input to the prompt's token ids: text, ids as they are, or a chat through the model's template.
// Thread-safety: thread-safe; builders share nothing mutable.  Borrows: tokenizer and chat template (must outlive
// this). Errors: kInvalidArgument naming `prompt` or `chat` (template errors included), kOutOfRange naming the prompt's
// length and the limit, kFailedPrecondition when the model has no chat template. Cost: that of tokenising, up to
// seconds for megabytes of text: never on a gRPC thread.
#ifndef DUNLIN_GATEWAY_TEXT_PROMPT_BUILDER_H_
#define DUNLIN_GATEWAY_TEXT_PROMPT_BUILDER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "dunlin/v1/inference.pb.h"
#include "model/chat_template/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::gateway {

class PromptBuilder {
 public:
  // chat_template: nullptr = the model has none.
  PromptBuilder(const model::Tokenizer* tokenizer, const model::ChatTemplate* chat_template)
      : tokenizer_(tokenizer), chat_template_(chat_template) {}

  // The request must have passed ValidateGenerateRequest. The result has 1 … context_tokens - 1 ids.
  absl::StatusOr<std::vector<uint32_t>> Build(const v1::GenerateRequest& request, uint32_t context_tokens,
                                              absl::CivilSecond local_now) const;

 private:
  absl::StatusOr<std::vector<model::TokenId>> EncodeChat(const v1::ChatInput& chat, absl::CivilSecond local_now) const;

  const model::Tokenizer* const tokenizer_;
  const model::ChatTemplate* const chat_template_;
};

// Keeps at most `max_tokens` of *ids: the end of it (LEFT, also unspecified, drops the oldest) or its beginning
// (RIGHT).
void TruncateTokens(v1::TruncatePrompt::Side side, size_t max_tokens, std::vector<uint32_t>* ids);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_TEXT_PROMPT_BUILDER_H_
