#include "tools/model_commands.h"

#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/civil_time.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "model/chat_template/chat_template.h"
#include "model/describe.h"
#include "model/hugging_face/open_model.h"
#include "model/tokenizer/tokenizer.h"
#include "tools/flat_json.h"

namespace dunlin::tools {
namespace {

std::string ReadStdin() { return {std::istreambuf_iterator<char>(std::cin), {}}; }

int Fail(absl::string_view command, const absl::Status& status) {
  std::cerr << "dunlin " << command << ": " << status.message() << "\n";
  return 1;
}

// A file's tokenizer; the file may be a vocabulary without tensors.
absl::StatusOr<std::unique_ptr<const model::Tokenizer>> OpenTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelFile> file, model::OpenModel(path));
  return model::Tokenizer::Create(file->gguf());
}

absl::StatusOr<std::vector<model::TokenId>> ParseIds(const std::string& text, int vocab_size) {
  std::vector<model::TokenId> ids;
  for (const absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" ,\t\r\n[]"), absl::SkipEmpty())) {
    model::TokenId id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", word, "\" is no token id: allowed are 0 to ", vocab_size - 1));
    }
    ids.push_back(id);
  }
  return ids;
}

void PrintIds(const model::Tokenizer& tokenizer, const std::vector<model::TokenId>& ids, bool json) {
  if (!json) {
    std::cout << absl::StrJoin(ids, " ") << "\n";
    return;
  }
  std::vector<std::string> pieces;
  for (const model::TokenId id : ids) pieces.push_back(JsonQuote(std::string(tokenizer.TokenBytes(id, true))));
  std::cout << "{\"ids\":[" << absl::StrJoin(ids, ",") << "],\"pieces\":[" << absl::StrJoin(pieces, ",") << "]}\n";
}

// The template's source; with a model also BOS and EOS as JSON members, which the variables on stdin may override.
struct TemplateSource {
  std::string text;
  std::string members;
};
absl::StatusOr<TemplateSource> ReadTemplate(const TemplateOptions& options) {
  TemplateSource source;
  if (!options.file.empty()) {
    std::ifstream in(options.file, std::ios::binary);
    if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", options.file));
    source.text.assign(std::istreambuf_iterator<char>(in), {});
    return source;
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelFile> file, model::OpenModel(options.model));
  ASSIGN_OR_RETURN(const absl::string_view text, file->gguf().GetString("tokenizer.chat_template"));
  ASSIGN_OR_RETURN(const auto tokenizer, model::Tokenizer::Create(file->gguf()));
  source.text = std::string(text);
  const auto member = [&](const char* name, model::TokenId id) {
    if (id < 0) return;
    absl::StrAppend(&source.members, JsonQuote(name), ":", JsonQuote(std::string(tokenizer->TokenBytes(id, true))),
                    ",");
  };
  member("bos_token", tokenizer->bos_id());
  member("eos_token", tokenizer->eos_id());
  return source;
}

absl::StatusOr<std::string> RenderTemplate(const TemplateOptions& options) {
  absl::CivilSecond now = absl::ToCivilSecond(absl::Now(), absl::LocalTimeZone());
  if (!options.now.empty() && !absl::ParseLenientCivilTime(options.now, &now)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--now \"", options.now, "\": a time looks like 2024-07-26T12:00:00"));
  }
  ASSIGN_OR_RETURN(const TemplateSource source, ReadTemplate(options));
  ASSIGN_OR_RETURN(const auto chat_template, model::ChatTemplate::Compile(source.text));
  std::string json = ReadStdin();
  // Of a repeated member the last counts, so what stdin says wins over the model's tokens.
  const size_t brace = json.find('{');
  if (brace != std::string::npos && !source.members.empty()) {
    const size_t next = json.find_first_not_of(" \t\r\n", brace + 1);
    std::string members = source.members;
    if (next != std::string::npos && json[next] == '}') members.pop_back();  // nothing follows: no comma
    json.insert(brace + 1, members);
  }
  ASSIGN_OR_RETURN(const model::Value variables, model::ParseJsonValue(json, /*mark_input=*/false));
  ASSIGN_OR_RETURN(const model::ChatTemplate::Rendered rendered, chat_template->Render(variables, now));
  return rendered.text;
}

}  // namespace

int Info(const InfoOptions& options) {
  const absl::StatusOr<std::unique_ptr<model::ModelFile>> file = model::OpenModel(options.file);
  if (!file.ok()) return Fail("info", file.status());
  std::cout << model::DescribeGguf((*file)->gguf(), options.json);
  return 0;
}

int Tokenize(const TokenizeOptions& options) {
  const auto tokenizer = OpenTokenizer(options.model);
  if (!tokenizer.ok()) return Fail("tokenize", tokenizer.status());
  const std::string input = ReadStdin();
  if (options.detokenize) {
    const auto ids = ParseIds(input, (*tokenizer)->vocab_size());
    if (!ids.ok()) return Fail("tokenize", ids.status());
    std::string text;
    model::StreamDecoder decoder(tokenizer->get(), /*skip_special=*/false);
    for (const model::TokenId id : *ids) decoder.Append(id, &text);
    decoder.Finish(&text);
    std::cout << text;
    return 0;
  }
  const auto ids = (*tokenizer)->Encode(input, {options.add_special, options.parse_special});
  if (!ids.ok()) return Fail("tokenize", ids.status());
  PrintIds(**tokenizer, *ids, options.json);
  return 0;
}

int Template(const TemplateOptions& options) {
  if (options.model.empty() == options.file.empty()) {
    std::cerr << "dunlin template: give either --model or --file\n";
    return 2;
  }
  const absl::StatusOr<std::string> text = RenderTemplate(options);
  if (!text.ok()) return Fail("template", text.status());
  std::cout << *text;
  return 0;
}

}  // namespace dunlin::tools
