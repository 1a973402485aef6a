#include "tests/model/tokenizer/small_vocabulary.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "model/tokenizer/byte_level.h"

namespace dunlin::testing {

using model::TokenType;
using model::Vocabulary;

Vocabulary SmallBpeVocabulary(absl::string_view pre) {
  Vocabulary v;
  v.model = "gpt2";
  v.pre = std::string(pre);
  for (int byte = 0; byte < 256; ++byte) v.tokens.emplace_back(model::ByteSpelling(static_cast<uint8_t>(byte)));
  v.types.assign(256, TokenType::kNormal);
  const auto add = [&](std::string text, TokenType type) {
    v.tokens.push_back(std::move(text));
    v.types.push_back(type);
  };
  add("<|start|>", TokenType::kControl);
  add("<|im_end|>", TokenType::kControl);
  add("<|im_end|>more", TokenType::kControl);
  add("<tool>", TokenType::kUserDefined);
  // "_" stands for a space here; "é" and the start of an emoji come as bytes.
  for (const char* merge :
       {"_ t",   "h e",    "_t he", "i n", "a a",   "aa aa", "aaaa aaaa", "a b", "l o",       "l lo",
        "e llo", "h ello", ". .",   "1 1", "\n \n", "_ _",   "__ __",     "' s", "\xC3 \xA9", "\xF0 \x9F"}) {
    const absl::string_view text = merge;
    const size_t space = text.find(' ', 1);
    const auto spell = [](absl::string_view bytes) {
      std::string spelled;
      for (const char c : bytes) {
        absl::StrAppend(&spelled, model::ByteSpelling(static_cast<uint8_t>(c == '_' ? ' ' : c)));
      }
      return spelled;
    };
    const std::string left = spell(text.substr(0, space));
    const std::string right = spell(text.substr(space + 1));
    v.merges.push_back(absl::StrCat(left, " ", right));
    add(absl::StrCat(left, right), TokenType::kNormal);
  }
  v.bos_id = kBpeStart;
  v.eos_id = kBpeEndMore;
  return v;
}

Vocabulary SmallSpmVocabulary() {
  Vocabulary v;
  v.model = "llama";
  v.pre = "default";
  const auto add = [&](std::string text, TokenType type, float score) {
    v.tokens.push_back(std::move(text));
    v.types.push_back(type);
    v.scores.push_back(score);
  };
  add("<unk>", TokenType::kUnknown, 0);
  add("<s>", TokenType::kControl, 0);
  add("</s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) add(absl::StrFormat("<0x%02X>", byte), TokenType::kByte, 0);
  add("<tool>", TokenType::kUserDefined, 0);
  float score = 0;
  // "_" stands for the space symbol. "<s" and "s>" could lead to the control token's text if merging were allowed to.
  for (const char* piece : {"_t",
                            "he",
                            "_the",
                            "in",
                            "aa",
                            "aaaa",
                            "__",
                            "____",
                            "lo",
                            "llo",
                            "hello",
                            "_hello",
                            "<s",
                            "s>",
                            "\xC3\xA9",
                            "n\xC3\xA9",
                            "\xE4\xBD\xA0",
                            "_",
                            "e",
                            "t",
                            "a",
                            "o",
                            "i",
                            "n",
                            "h",
                            "l",
                            "s",
                            "<",
                            ">",
                            "/",
                            "."}) {
    score -= 1;
    add(absl::StrReplaceAll(piece, {{"_", "\xE2\x96\x81"}}), TokenType::kNormal, score);
  }
  add("lll", TokenType::kUnused, -1.5f);
  add("ll", TokenType::kNormal, -1.25f);
  v.bos_id = 1;
  v.eos_id = 2;
  return v;
}

model::TokenId IdOf(const Vocabulary& vocabulary, absl::string_view text) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.tokens[i] == text) return static_cast<model::TokenId>(i);
  }
  return -1;
}

}  // namespace dunlin::testing
