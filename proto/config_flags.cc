#include "proto/config_flags.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "proto/config_flags_internal.h"

namespace dunlin {
namespace {

using config_internal::FlagName;
using config_internal::IsSet;
using config_internal::OptionsOf;
using config_internal::UsedBy;
using config_internal::ValueText;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kMaxConfigBytes = 1 << 20;

// Hostile or mistaken values are quoted, and short enough for one line.
std::string Quoted(absl::string_view value) {
  const bool cut = value.size() > 80;
  return absl::StrCat("\"", absl::CHexEscape(value.substr(0, 80)), cut ? "…" : "", "\"");
}

std::string NumberText(double value) {
  if (value == std::floor(value) && std::abs(value) < 9e15) return absl::StrCat(static_cast<int64_t>(value));
  return absl::StrCat(value);
}

absl::Status OutOfRange(const std::string& what, const std::string& value, const v1::FlagOptions& options) {
  std::string allowed = absl::StrCat(" is not allowed: ");
  if (options.has_max()) {
    absl::StrAppend(&allowed, "between ", NumberText(options.has_min() ? options.min() : 0.0), " and ",
                    NumberText(options.max()));
  } else {
    absl::StrAppend(&allowed, "at least ", NumberText(options.min()));
  }
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", value, allowed));
}

// one_of and ranges of what is set now; `what` names the flag or the file and key.
absl::Status CheckValue(const std::string& what, const Message& message, const FieldDescriptor* field, int index) {
  const v1::FlagOptions& options = OptionsOf(field);
  const std::string value = ValueText(message, field, index);
  if (options.one_of_size() > 0 &&
      std::find(options.one_of().begin(), options.one_of().end(), value) == options.one_of().end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": ", Quoted(value), " is not one of ", absl::StrJoin(options.one_of(), ", ")));
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    if (value.find('\0') != std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat(what, ": has a NUL byte"));
    if (options.unit().empty()) return absl::OkStatus();
  }
  if (!options.has_min() && !options.has_max()) return absl::OkStatus();
  double number = 0;
  if (options.unit().empty()) {
    if (!absl::SimpleAtod(value, &number)) return absl::InvalidArgumentError(absl::StrCat(what, ": not a number"));
  } else {
    const absl::StatusOr<uint64_t> size = ParseSize(value);
    if (!size.ok()) return absl::InvalidArgumentError(absl::StrCat(what, ": ", size.status().message()));
    number = static_cast<double>(*size);
  }
  // Written so that NaN is refused.
  const bool inside =
      (!options.has_min() || number >= options.min()) && (!options.has_max() || number <= options.max());
  return inside ? absl::OkStatus() : OutOfRange(what, value, options);
}

absl::StatusOr<uint64_t> ParseInteger(absl::string_view text, const v1::FlagOptions& options) {
  if (!options.unit().empty()) return ParseSize(text);
  uint64_t number = 0;
  if (text.find_first_not_of("0123456789") != absl::string_view::npos || !absl::SimpleAtoi(text, &number)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not a whole number"));
  }
  return number;
}

absl::Status BadValue(const std::string& flag, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", why));
}

// Sets a singular field or adds to a repeated one.
absl::Status SetFromText(const std::string& flag, absl::string_view text, const FieldDescriptor* field,
                         Message* message) {
  const google::protobuf::Reflection& r = *message->GetReflection();
  const v1::FlagOptions& options = OptionsOf(field);
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) {
        r.AddString(message, field, std::string(text));
      } else {
        r.SetString(message, field, std::string(text));
      }
      break;
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!absl::SimpleAtob(text, &value)) return BadValue(flag, absl::StrCat(Quoted(text), " is not true or false"));
      r.SetBool(message, field, value);
      break;
    }
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64: {
      const absl::StatusOr<uint64_t> value = ParseInteger(text, options);
      if (!value.ok()) return BadValue(flag, value.status().message());
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_UINT64) {
        r.SetUInt64(message, field, *value);
        break;
      }
      if (*value > std::numeric_limits<uint32_t>::max()) {
        return options.has_max() ? OutOfRange(flag, std::string(text), options)
                                 : BadValue(flag, absl::StrCat(text, " is over 4294967295"));
      }
      r.SetUInt32(message, field, static_cast<uint32_t>(*value));
      break;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value)) return BadValue(flag, absl::StrCat(Quoted(text), " is not a number"));
      r.SetDouble(message, field, value);
      break;
    }
    default:
      CHECK(false) << "ServerConfig has a field of a type that flags lack: " << field->full_name();
  }
  const int last = field->is_repeated() ? r.FieldSize(*message, field) - 1 : 0;
  return CheckValue(flag, *message, field, last);
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

struct FoundFlag {
  const FieldDescriptor* field = nullptr;
  bool negated = false;
};

// nullptr when no field has that name or alias, for any executable.
FoundFlag FindFlag(absl::string_view name) {
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    const std::string own = FlagName(field);
    if (name == own) return {field, false};
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL && name == absl::StrCat("no-", own)) return {field, true};
    for (const std::string& alias : OptionsOf(field).aliases()) {
      if (name == alias) return {field, false};
    }
  }
  return {};
}

absl::Status UnknownFlag(absl::string_view name, absl::string_view used_by) {
  std::string best;
  // Two letters or a third of them may be wrong (a swap is two); no more of a name is looked at than flags have.
  size_t best_distance = std::max<size_t>(2, std::min<size_t>(name.size(), 60) / 3) + 1;
  std::vector<std::string> names = {"help", "print-config"};
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    if (!UsedBy(table->field(i), used_by)) continue;
    names.push_back(FlagName(table->field(i)));
    for (const std::string& alias : OptionsOf(table->field(i)).aliases()) names.push_back(alias);
  }
  for (const std::string& known : names) {
    const size_t distance = EditDistance(name.substr(0, 60), known);
    if (distance >= best_distance) continue;
    best_distance = distance;
    best = known;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown flag --", absl::CHexEscape(name.substr(0, 80)),
                                                 best.empty() ? "" : absl::StrCat("; did you mean --", best, "?")));
}

// Walks argv; flags land in *flags, in a message of their own so that the file can be merged below them.
class ArgParser {
 public:
  ArgParser(std::span<const std::string> args, absl::string_view used_by, ParsedConfig* parsed, v1::ServerConfig* flags)
      : args_(args), used_by_(used_by), parsed_(parsed), flags_(flags) {}

  absl::Status Run() {
    for (; next_ < args_.size(); ++next_) {
      RETURN_IF_ERROR(One(args_[next_]));
      if (parsed_->help) return absl::OkStatus();
    }
    return absl::OkStatus();
  }

 private:
  absl::Status One(const std::string& arg) {
    if (arg == "-h" || arg == "--help") {
      parsed_->help = true;
      return absl::OkStatus();
    }
    if (arg == "--print-config" || arg == "--print_config") {
      parsed_->print_config = true;
      return absl::OkStatus();
    }
    if (!absl::StartsWith(arg, "--") || arg.size() == 2) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument ", Quoted(arg), "; flags start with --"));
    }
    const size_t equals = arg.find('=');
    std::string name = arg.substr(2, equals == std::string::npos ? equals : equals - 2);
    std::replace(name.begin(), name.end(), '_', '-');
    const FoundFlag found = FindFlag(name);
    if (found.field == nullptr) return UnknownFlag(name, used_by_);
    const std::string flag = absl::StrCat("--", name);
    if (!UsedBy(found.field, used_by_)) {
      return absl::InvalidArgumentError(absl::StrCat(
          flag, " is a flag of ", absl::StrJoin(OptionsOf(found.field).used_by(), ", "), ", not of ", used_by_));
    }
    if (found.field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
      if (equals == std::string::npos) return SetFromText(flag, found.negated ? "false" : "true", found.field, flags_);
      if (found.negated) return BadValue(flag, "takes no value");
    } else if (equals == std::string::npos) {
      if (next_ + 1 >= args_.size() || absl::StartsWith(args_[next_ + 1], "--")) return BadValue(flag, "needs a value");
      return SetFromText(flag, args_[++next_], found.field, flags_);
    }
    return SetFromText(flag, absl::string_view(arg).substr(equals + 1), found.field, flags_);
  }

  std::span<const std::string> args_;
  absl::string_view used_by_;
  ParsedConfig* parsed_;
  v1::ServerConfig* flags_;
  size_t next_ = 0;
};

// Keeps the first error of a parse.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (!text_.empty()) return;
    line_ = line;
    text_ = absl::StrCat(column + 1, ": ", message);
  }
  bool seen() const { return !text_.empty(); }
  // The parser counts lines from 0.
  std::string At(const std::string& file) const { return absl::StrCat(file, ":", line_ + 1, ":", text_); }

 private:
  int line_ = 0;
  std::string text_;
};

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  const auto error = [text](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " ", why));
  };
  absl::string_view digits = text;
  uint64_t factor = 1;
  bool decimal = true;
  if (!digits.empty() && absl::ascii_isalpha(static_cast<unsigned char>(digits.back()))) {
    const absl::string_view letters = "kmgt";
    const char letter = digits.back();
    const size_t power = letters.find(absl::ascii_tolower(static_cast<unsigned char>(letter)));
    if (power == absl::string_view::npos) return error("has an unknown suffix; allowed are k m g t and K M G T");
    decimal = absl::ascii_islower(static_cast<unsigned char>(letter));
    for (size_t i = 0; i <= power; ++i) factor *= decimal ? 1000 : 1024;
    digits.remove_suffix(1);
  }
  // The number parsers of Abseil skip spaces, which a size must not have.
  if (digits.empty() || digits.size() > 24 || !absl::ascii_isdigit(static_cast<unsigned char>(digits[0])) ||
      !absl::ascii_isdigit(static_cast<unsigned char>(digits.back()))) {
    return error("is not a size such as 4096, 4k or 4K");
  }
  uint64_t whole = 0;
  if (absl::SimpleAtoi(digits, &whole)) {
    if (whole > std::numeric_limits<uint64_t>::max() / factor) return error("is too large");
    return whole * factor;
  }
  double number = 0;
  if (!decimal || factor == 1 || digits.find_first_not_of("0123456789.") != absl::string_view::npos ||
      !absl::SimpleAtod(digits, &number)) {
    return error("is not a size such as 4096, 4k, 1.5k or 4K");
  }
  const double product = number * static_cast<double>(factor);
  if (!(product < 9e15)) return error("is too large");
  return static_cast<uint64_t>(std::llround(product));
}

void ApplyDefaults(absl::string_view used_by, v1::ServerConfig* config) {
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    const std::string& text = OptionsOf(field).default_value();
    if (text.empty() || IsSet(*config, field) || !UsedBy(field, used_by)) continue;
    const absl::Status status = SetFromText(FlagName(field), text, field, config);
    CHECK(status.ok()) << "the default of config.proto is not allowed: " << std::string(status.message());
  }
}

absl::Status MergeConfigText(absl::string_view text, const std::string& file_name, v1::ServerConfig* config) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": ", text.size(), " bytes; a configuration has at most ", kMaxConfigBytes));
  }
  v1::ServerConfig from_file;
  FirstError errors;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.SetRecursionLimit(16);
  if (!parser.ParseFromString(std::string(text), &from_file)) {
    return absl::InvalidArgumentError(errors.seen() ? errors.At(file_name)
                                                    : absl::StrCat(file_name, ": not textproto"));
  }
  if (from_file.has_config()) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": config: a configuration file cannot name another"));
  }
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    if (!IsSet(from_file, field)) continue;
    const int count = field->is_repeated() ? from_file.GetReflection()->FieldSize(from_file, field) : 1;
    for (int k = 0; k < count; ++k) {
      RETURN_IF_ERROR(CheckValue(absl::StrCat(file_name, ": ", field->name()), from_file, field, k));
    }
    if (field->is_repeated()) config->GetReflection()->ClearField(config, field);
  }
  config->MergeFrom(from_file);
  return absl::OkStatus();
}

absl::StatusOr<ParsedConfig> ParseArgs(std::span<const std::string> args, absl::string_view used_by,
                                       const ConfigReader& read_file) {
  ParsedConfig parsed;
  v1::ServerConfig flags;
  RETURN_IF_ERROR(ArgParser(args, used_by, &parsed, &flags).Run());
  if (parsed.help) return parsed;
  if (flags.has_config()) {
    const absl::StatusOr<std::string> text = read_file(flags.config());
    if (!text.ok()) return absl::InvalidArgumentError(absl::StrCat("--config: ", text.status().message()));
    RETURN_IF_ERROR(MergeConfigText(*text, flags.config(), &parsed.given));
  }
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    if (field->is_repeated() && IsSet(flags, field)) parsed.given.GetReflection()->ClearField(&parsed.given, field);
  }
  parsed.given.MergeFrom(flags);
  parsed.config = parsed.given;
  ApplyDefaults(used_by, &parsed.config);
  return parsed;
}

absl::StatusOr<std::string> ReadConfigFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", Quoted(path)));
  std::string text(kMaxConfigBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return absl::DataLossError(absl::StrCat("cannot read ", Quoted(path)));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

std::optional<int> MainConfig(std::span<const std::string> args, absl::string_view program, absl::string_view summary,
                              absl::string_view used_by, ParsedConfig* parsed) {
  absl::StatusOr<ParsedConfig> result = ParseArgs(args, used_by);
  const std::string name(program);
  if (!result.ok()) {
    std::fprintf(stderr, "%s: %s\nTry '%s --help'.\n", name.c_str(), std::string(result.status().message()).c_str(),
                 name.c_str());
    return 2;
  }
  *parsed = *std::move(result);
  if (parsed->help) {
    std::fputs(HelpText(program, summary, used_by).c_str(), stdout);
    return 0;
  }
  if (parsed->print_config) {
    std::fputs(ConfigText(parsed->config).c_str(), stdout);
    return 0;
  }
  return std::nullopt;
}

}  // namespace dunlin
