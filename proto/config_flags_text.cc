// What the table of flags looks like in print: help, the configuration as text, flags for a child.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "proto/config_flags.h"
#include "proto/config_flags_internal.h"

namespace dunlin {

namespace config_internal {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool UsedBy(const FieldDescriptor* field, absl::string_view used_by) {
  const v1::FlagOptions& options = OptionsOf(field);
  return options.used_by().empty() || std::any_of(options.used_by().begin(), options.used_by().end(),
                                                  [used_by](const std::string& word) { return used_by == word; });
}

std::string FlagName(const FieldDescriptor* field) {
  std::string name = field->name();
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

bool IsSet(const Message& message, const FieldDescriptor* field) {
  return field->is_repeated() ? message.GetReflection()->FieldSize(message, field) > 0
                              : message.GetReflection()->HasField(message, field);
}

std::string ValueText(const Message& message, const FieldDescriptor* field, int index) {
  const google::protobuf::Reflection& r = *message.GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return repeated ? r.GetRepeatedString(message, field, index) : r.GetString(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return (repeated ? r.GetRepeatedBool(message, field, index) : r.GetBool(message, field)) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(repeated ? r.GetRepeatedUInt32(message, field, index) : r.GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(repeated ? r.GetRepeatedUInt64(message, field, index) : r.GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      // Shorter texts that read back as another number would make --print-config lie.
      for (int digits = 6; digits < 17; ++digits) {
        const double value = repeated ? r.GetRepeatedDouble(message, field, index) : r.GetDouble(message, field);
        char text[40];
        std::snprintf(text, sizeof(text), "%.*g", digits, value);
        if (std::strtod(text, nullptr) == value || digits == 16) return text;
      }
      return "";
    default:
      CHECK(false) << "ServerConfig has a field of a type that flags lack: " << field->full_name();
      return "";
  }
}

}  // namespace config_internal

namespace {

using config_internal::FlagName;
using config_internal::IsSet;
using config_internal::OptionsOf;
using config_internal::UsedBy;
using config_internal::ValueText;
using google::protobuf::FieldDescriptor;

std::string ValueWord(const FieldDescriptor* field) {
  const v1::FlagOptions& options = OptionsOf(field);
  if (options.one_of_size() > 0) return absl::StrCat(" {", absl::StrJoin(options.one_of(), ","), "}");
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "";
    case FieldDescriptor::CPPTYPE_STRING:
      return options.unit().empty() ? " TEXT" : " N";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return " X";
    default:
      return " N";
  }
}

// Appends `text` at column `indent`, broken between words.
void AppendWrapped(absl::string_view text, size_t indent, size_t width, std::string* out) {
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column != 0 && column + 1 + word.size() > width) {
      out->push_back('\n');
      column = 0;
    }
    if (column == 0) {
      out->append(indent, ' ');
      column = indent;
    } else {
      out->push_back(' ');
      ++column;
    }
    absl::StrAppend(out, word);
    column += word.size();
  }
  out->push_back('\n');
}

void AppendFlag(const std::string& left, const std::string& help, size_t width, std::string* out) {
  absl::StrAppend(out, "  ", left, "\n");
  AppendWrapped(help, 6, width, out);
}

std::string FlagHelp(const FieldDescriptor* field) {
  const v1::FlagOptions& options = OptionsOf(field);
  std::string help = options.help();
  if (field->is_repeated()) {
    // The help text says so itself where it matters.
  } else if (!options.default_value().empty()) {
    absl::StrAppend(&help, " [default: ", options.default_value(), "]");
  }
  if (options.live()) absl::StrAppend(&help, " (may change at a reload)");
  return help;
}

}  // namespace

std::string HelpText(absl::string_view program, absl::string_view summary, absl::string_view used_by, int width) {
  CHECK_GE(width, 40);
  const size_t columns = static_cast<size_t>(width);
  std::string out = absl::StrCat("usage: ", program, " [flags]\n\n");
  for (const absl::string_view line : absl::StrSplit(summary, '\n')) AppendWrapped(line, 0, columns, &out);
  out += "\nflags:\n";
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    if (!UsedBy(field, used_by)) continue;
    const bool is_bool = field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
    std::string left = absl::StrCat("--", is_bool ? "[no-]" : "", FlagName(field), ValueWord(field));
    for (const std::string& alias : OptionsOf(field).aliases()) absl::StrAppend(&left, ", --", alias);
    AppendFlag(left, FlagHelp(field), columns, &out);
  }
  AppendFlag("--print-config", "print the effective configuration and exit", columns, &out);
  AppendFlag("--help", "print this and exit", columns, &out);
  out += "\nNumbers of tokens and bytes take a suffix: 4k = 4000, 4K = 4096.\n";
  return out;
}

std::string ConfigText(const google::protobuf::Message& config) {
  std::string out;
  const google::protobuf::Descriptor* table = config.GetDescriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    if (!IsSet(config, field) || FlagName(field) == "config") continue;
    if (OptionsOf(field).secret()) {
      absl::StrAppend(&out, "# ", field->name(), " is set; not shown\n");
      continue;
    }
    const int count = field->is_repeated() ? config.GetReflection()->FieldSize(config, field) : 1;
    for (int k = 0; k < count; ++k) {
      const std::string value = ValueText(config, field, k);
      const bool quoted = field->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
      absl::StrAppend(&out, field->name(), ": ", quoted ? absl::StrCat("\"", absl::CEscape(value), "\"") : value, "\n");
    }
  }
  return out;
}

std::vector<std::string> FlagsFromConfig(const v1::ServerConfig& config, absl::string_view used_by) {
  std::vector<std::string> flags;
  const google::protobuf::Descriptor* table = v1::ServerConfig::descriptor();
  for (int i = 0; i < table->field_count(); ++i) {
    const FieldDescriptor* field = table->field(i);
    const std::string name = FlagName(field);
    if (!IsSet(config, field) || !UsedBy(field, used_by) || OptionsOf(field).secret() || name == "config") continue;
    const int count = field->is_repeated() ? config.GetReflection()->FieldSize(config, field) : 1;
    for (int k = 0; k < count; ++k) flags.push_back(absl::StrCat("--", name, "=", ValueText(config, field, k)));
  }
  return flags;
}

}  // namespace dunlin
