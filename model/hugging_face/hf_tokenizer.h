// A Hugging Face tokenizer.json (byte-level BPE) in GGUF's tokenizer keys.
// Thread-safety: pure functions.  Errors: kInvalidArgument naming the member. What this build cannot tokenise is no
// error here: tokenizer.ggml.model or .pre then say what it is, and Tokenizer::Create refuses it by that name; a model
// can be listed and measured without a tokenizer.  Source: the published tokenizers' definitions.
#ifndef DUNLIN_MODEL_HUGGING_FACE_HF_TOKENIZER_H_
#define DUNLIN_MODEL_HUGGING_FACE_HF_TOKENIZER_H_

#include <string>

#include "absl/status/status.h"
#include "model/gguf/gguf_assembler.h"
#include "model/hugging_face/json_object.h"

namespace dunlin::model {

// tokenizer, tokenizer_config, config: the files of those names, empty where absent. chat_template: the text of
// chat_template.jinja, which wins over tokenizer_config's.
absl::Status DescribeHfTokenizer(const JsonObject& tokenizer, const JsonObject& tokenizer_config,
                                 const JsonObject& config, const std::string& chat_template, GgufAssembler* out);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_HUGGING_FACE_HF_TOKENIZER_H_
