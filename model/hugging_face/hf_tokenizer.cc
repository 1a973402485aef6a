#include "model/hugging_face/hf_tokenizer.h"

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/vocabulary.h"

namespace dunlin::model {
namespace {

using Json = nlohmann::json;

// The published pre-tokenizers by their definition, steps in order.
struct KnownPreTokenizer {
  const char* definition;
  const char* name;  // of PreTokenizerFamily
};
#define DUNLIN_LLAMA3_SPLIT(digits)                                        \
  R"(Split((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits \
  R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+), ByteLevel without expression)"
constexpr KnownPreTokenizer kPreTokenizers[] = {
    {"ByteLevel", "gpt-2"},
    {"Digits one by one, ByteLevel", "smollm"},
    {DUNLIN_LLAMA3_SPLIT(R"(\p{N}{1,3})"), "llama-bpe"},
    {DUNLIN_LLAMA3_SPLIT(R"(\p{N})"), "qwen2"},
};
#undef DUNLIN_LLAMA3_SPLIT

// A member of any JSON value; nullptr when it is no object or lacks it.
const Json* Member(const Json& value, const char* key) {
  const auto it = value.find(key);
  return it == value.end() || it->is_null() ? nullptr : &*it;
}
std::string Text(const Json& value, const char* key) {
  const Json* member = Member(value, key);
  return member != nullptr && member->is_string() ? member->get<std::string>() : "";
}
bool Flag(const Json& value, const char* key, bool fallback) {
  const Json* member = Member(value, key);
  return member != nullptr && member->is_boolean() ? member->get<bool>() : fallback;
}

// One step of a pre-tokenizer, in the spelling of kPreTokenizers or as its JSON.
std::string StepDefinition(const Json& step) {
  const std::string type = Text(step, "type");
  if (type == "ByteLevel" && !Flag(step, "add_prefix_space", true)) {
    return Flag(step, "use_regex", true) ? "ByteLevel" : "ByteLevel without expression";
  }
  if (type == "Digits" && Flag(step, "individual_digits", false)) return "Digits one by one";
  const Json* pattern = Member(step, "pattern");
  if (type == "Split" && pattern != nullptr && Text(step, "behavior") == "Isolated" && !Flag(step, "invert", false)) {
    const std::string expression = Text(*pattern, "Regex");
    if (!expression.empty()) return absl::StrCat("Split(", expression, ")");
  }
  return step.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The family's name, or the definition of one that is not known.
std::string PreTokenizerName(const Json& pre_tokenizer) {
  std::vector<std::string> steps;
  const Json* sequence = Member(pre_tokenizer, "pretokenizers");
  if (Text(pre_tokenizer, "type") == "Sequence" && sequence != nullptr && sequence->is_array()) {
    for (const Json& step : *sequence) steps.push_back(StepDefinition(step));
  } else {
    steps.push_back(StepDefinition(pre_tokenizer));
  }
  const std::string definition = absl::StrJoin(steps, ", ");
  for (const KnownPreTokenizer& known : kPreTokenizers) {
    if (definition == known.definition) return known.name;
  }
  return definition;
}

// What of this tokenizer is beyond byte-level BPE; "" = nothing.
std::string Unsupported(const Json& tokenizer, const Json& model, const std::string& pre) {
  if (Text(model, "type") != "BPE") return Text(model, "type");
  if (Flag(model, "byte_fallback", false)) return "BPE with byte_fallback";
  for (const char* member : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!Text(model, member).empty()) return absl::StrCat("BPE with ", member);
  }
  const Json* normalizer = Member(tokenizer, "normalizer");
  // A GGUF's reference reader does not compose its input either.
  if (normalizer != nullptr && Text(*normalizer, "type") != "NFC") {
    return absl::StrCat("BPE with a normalizer of type ", Text(*normalizer, "type"));
  }
  const PreTokenizerFamily* family = FindPreTokenizerFamily(pre);
  if (family != nullptr && family->ignore_merges != Flag(model, "ignore_merges", false)) {
    return absl::StrCat("BPE with the pre-tokenizer of ", pre, " and ignore_merges ", !family->ignore_merges);
  }
  return "";
}

// Ids and texts as they are collected.
struct Tokens {
  std::vector<std::string> texts;
  std::vector<int64_t> types;

  absl::Status Set(const Json* id, const std::string& text, TokenType type) {
    if (id == nullptr || !id->is_number_unsigned() || id->get<uint64_t>() >= texts.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: the id of token \"", text, "\" is ",
                                                     id == nullptr ? "missing" : id->dump(), "; 0 to ",
                                                     texts.size() - 1, " are allowed (config.json's vocab_size)"));
    }
    texts[id->get<size_t>()] = text;
    types[id->get<size_t>()] = static_cast<int64_t>(type);
    return absl::OkStatus();
  }
  int64_t Find(const std::string& text) const {
    for (size_t i = 0; i < texts.size(); ++i) {
      if (texts[i] == text) return static_cast<int64_t>(i);
    }
    return -1;
  }
};

absl::StatusOr<Tokens> ReadTokens(const Json& tokenizer, const Json& model, int64_t vocab_size) {
  constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
  if (vocab_size < 1 || vocab_size > kMaxVocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: 'vocab_size' is ", vocab_size, "; 1 to ", kMaxVocabulary, " are allowed"));
  }
  Tokens tokens;
  tokens.types.assign(static_cast<size_t>(vocab_size), static_cast<int64_t>(TokenType::kUnused));
  for (int64_t i = 0; i < vocab_size; ++i) tokens.texts.push_back(absl::StrCat("[PAD", i, "]"));
  const Json* vocabulary = Member(model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json: 'model.vocab' is no object");
  }
  for (const auto& [text, id] : vocabulary->items()) RETURN_IF_ERROR(tokens.Set(&id, text, TokenType::kNormal));
  const Json* added = Member(tokenizer, "added_tokens");
  if (added == nullptr || !added->is_array()) return tokens;
  for (const Json& token : *added) {
    RETURN_IF_ERROR(tokens.Set(Member(token, "id"), Text(token, "content"),
                               Flag(token, "special", false) ? TokenType::kControl : TokenType::kUserDefined));
  }
  return tokens;
}

absl::StatusOr<std::vector<std::string>> ReadMerges(const Json& model) {
  const Json* merges = Member(model, "merges");
  if (merges == nullptr || !merges->is_array()) {
    return absl::InvalidArgumentError("tokenizer.json: 'model.merges' is no array");
  }
  std::vector<std::string> out;
  out.reserve(merges->size());
  for (const Json& merge : *merges) {
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (!pair && !merge.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.json: 'model.merges[", out.size(), "]' is neither a text nor two texts"));
    }
    out.push_back(
        pair ? absl::StrCat(merge[0].get_ref<const std::string&>(), " ", merge[1].get_ref<const std::string&>())
             : merge.get<std::string>());
  }
  return out;
}

// A token that tokenizer_config names, as text or as an object with its content; else config's id. -1: none.
int64_t SpecialId(const JsonObject& tokenizer_config, const JsonObject& config, const std::string& name,
                  const Tokens& tokens) {
  if (const Json* token = tokenizer_config.Find(name + "_token")) {
    return tokens.Find(token->is_string() ? token->get<std::string>() : Text(*token, "content"));
  }
  const Json* id = config.Find(name + "_token_id");
  if (id != nullptr && id->is_array() && !id->empty()) id = &id->front();
  if (id == nullptr || !id->is_number_unsigned() || id->get<uint64_t>() >= tokens.texts.size()) return -1;
  return id->get<int64_t>();
}

// Whether the post-processor puts a token before the text (first) or behind it; nullopt: there is none that would.
std::optional<bool> TemplateAdds(const Json& processor, bool first, const std::string& token) {
  if (const Json* parts = Member(processor, "processors"); parts != nullptr && parts->is_array()) {
    for (const Json& part : *parts) {
      if (const std::optional<bool> adds = TemplateAdds(part, first, token)) return adds;
    }
    return std::nullopt;
  }
  const Json* single = Member(processor, "single");
  if (Text(processor, "type") != "TemplateProcessing" || single == nullptr || !single->is_array() || single->empty()) {
    return std::nullopt;
  }
  const Json* special = Member(first ? single->front() : single->back(), "SpecialToken");
  return special != nullptr && Text(*special, "id") == token;
}

absl::Status AddEnds(const Json& tokenizer, const JsonObject& tokenizer_config, const JsonObject& config,
                     const Tokens& tokens, GgufAssembler* out) {
  for (const bool first : {true, false}) {
    const std::string name = first ? "bos" : "eos";
    const int64_t id = SpecialId(tokenizer_config, config, name, tokens);
    if (id >= 0) out->Int(absl::StrCat("tokenizer.ggml.", name, "_token_id"), id);
    const Json* processor = Member(tokenizer, "post_processor");
    std::optional<bool> adds;
    if (processor != nullptr && id >= 0) adds = TemplateAdds(*processor, first, tokens.texts[static_cast<size_t>(id)]);
    ASSIGN_OR_RETURN(const bool says, tokenizer_config.BoolOr(absl::StrCat("add_", name, "_token"), false));
    out->Bool(absl::StrCat("tokenizer.ggml.add_", name, "_token"), id >= 0 && adds.value_or(says));
  }
  // Further ends of a generation.
  const Json* ends = config.Find("eos_token_id");
  if (ends == nullptr || !ends->is_array()) return absl::OkStatus();
  const char* const kKeys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
  for (size_t i = 1; i < ends->size() && i <= std::size(kKeys); ++i) {
    const Json& id = (*ends)[i];
    if (id.is_number_unsigned() && id.get<uint64_t>() < tokens.texts.size()) out->Int(kKeys[i - 1], id.get<int64_t>());
  }
  return absl::OkStatus();
}

void AddChatTemplate(const JsonObject& tokenizer_config, const std::string& chat_template, GgufAssembler* out) {
  std::string text = chat_template;
  const Json* listed = tokenizer_config.Find("chat_template");
  if (text.empty() && listed != nullptr && listed->is_string()) text = listed->get<std::string>();
  if (text.empty() && listed != nullptr && listed->is_array()) {
    for (const Json& named : *listed) {
      if (Text(named, "name") == "default") text = Text(named, "template");
    }
  }
  if (!text.empty()) out->String("tokenizer.chat_template", text);
}

}  // namespace

absl::Status DescribeHfTokenizer(const JsonObject& tokenizer, const JsonObject& tokenizer_config,
                                 const JsonObject& config, const std::string& chat_template, GgufAssembler* out) {
  AddChatTemplate(tokenizer_config, chat_template, out);
  if (tokenizer.empty()) return absl::OkStatus();
  const Json* model = tokenizer.Find("model");
  if (model == nullptr) return absl::InvalidArgumentError("tokenizer.json: 'model' is missing");
  const Json* pre_tokenizer = tokenizer.Find("pre_tokenizer");
  const std::string pre = pre_tokenizer == nullptr ? "none" : PreTokenizerName(*pre_tokenizer);
  const std::string unsupported = Unsupported(tokenizer.json(), *model, pre);
  if (!unsupported.empty()) {
    out->String("tokenizer.ggml.model", unsupported);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const int64_t vocab_size, config.Int("vocab_size"));
  ASSIGN_OR_RETURN(Tokens tokens, ReadTokens(tokenizer.json(), *model, vocab_size));
  ASSIGN_OR_RETURN(std::vector<std::string> merges, ReadMerges(*model));
  RETURN_IF_ERROR(AddEnds(tokenizer.json(), tokenizer_config, config, tokens, out));
  out->String("tokenizer.ggml.model", "gpt2");
  out->String("tokenizer.ggml.pre", pre);
  out->Strings("tokenizer.ggml.tokens", std::move(tokens.texts));
  out->Ints("tokenizer.ggml.token_type", std::move(tokens.types));
  out->Strings("tokenizer.ggml.merges", std::move(merges));
  return absl::OkStatus();
}

}  // namespace dunlin::model
