#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/chat_template/json.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

class Writer {
 public:
  Writer(Env& env, TextBuilder* out) : env_(env), out_(*out) {}

  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;
  MarkedText indent, item_separator, key_separator;

  absl::Status Write(const Value& v, size_t level) {
    RETURN_IF_ERROR(env_.Spend(1));
    if (v.is_string()) return WriteString(v.text());
    if (v.is_dict()) return WriteDict(*v.heap<DictHeap>(), level);
    if (v.is(Type::kList) || v.is(Type::kTuple)) return WriteList(v.items(), level);
    ASSIGN_OR_RETURN(const std::string scalar, Scalar(v));
    if (scalar.empty()) return Invalid(absl::StrCat("Object of type ", TypeName(v), " is not JSON serializable"));
    out_.Append(scalar);
    return absl::OkStatus();
  }

 private:
  // null, booleans and numbers; "" for other types.
  static absl::StatusOr<std::string> Scalar(const Value& v) {
    switch (v.type()) {
      case Type::kNone:
        return "null";
      case Type::kBool:
        return v.integer() != 0 ? "true" : "false";
      case Type::kInt:
        return absl::StrCat(v.integer());
      case Type::kBigInt:
        return v.digits();
      case Type::kFloat:
        if (std::isnan(v.number())) return "NaN";
        if (std::isinf(v.number())) return v.number() < 0 ? "-Infinity" : "Infinity";
        return FloatRepr(v.number());
      default:
        return "";
    }
  }

  absl::Status WriteString(const MarkedText& text) {
    RETURN_IF_ERROR(env_.Spend(text.size() / 32));
    const absl::string_view s = text.view();
    out_.Append("\"");
    size_t plain = 0;  // start of the stretch that is copied as it is
    for (size_t i = 0, size = 0; i < s.size() && !out_.full(); i += size) {
      const CodePoint p = Decode(s, i);
      size = p.size;
      const std::string escaped = Escaped(p.value);
      if (escaped.empty()) continue;
      out_.Append(text, plain, i);
      out_.Append(escaped, text.AnyInput(i, i + 1));
      plain = i + size;
    }
    out_.Append(text, plain, s.size());
    out_.Append("\"");
    return absl::OkStatus();
  }

  std::string Escaped(uint32_t c) const {
    switch (c) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\b':
        return "\\b";
      case '\f':
        return "\\f";
      default:
        break;
    }
    if (c < 0x20 || (ensure_ascii && c > 0x7F && c < 0x10000)) return absl::StrFormat("\\u%04x", c);
    if (ensure_ascii && c >= 0x10000) {
      return absl::StrFormat("\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
    }
    return "";
  }

  void NewLine(size_t level) {
    if (!pretty) return;
    out_.Append("\n");
    out_.Repeat(indent, level);
  }

  absl::Status WriteList(const std::vector<Value>& items, size_t level) {
    out_.Append("[");
    for (size_t i = 0; i < items.size() && !out_.full(); ++i) {
      if (i > 0) out_.Append(item_separator);
      NewLine(level + 1);
      RETURN_IF_ERROR(Write(items[i], level + 1));
    }
    if (!items.empty()) NewLine(level);
    out_.Append("]");
    return absl::OkStatus();
  }

  absl::Status WriteKey(const Value& key) {
    if (key.is_string()) return WriteString(key.text());
    ASSIGN_OR_RETURN(const std::string scalar, Scalar(key));
    if (scalar.empty()) {
      return Invalid(absl::StrCat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    }
    out_.Append(absl::StrCat("\"", scalar, "\""));
    return absl::OkStatus();
  }

  absl::Status WriteDict(const DictHeap& dict, size_t level) {
    const auto& entries = dict.entries();
    std::vector<size_t> order;
    if (sort_keys) {
      std::vector<Value> keys;
      for (const auto& entry : entries) keys.push_back(entry.first);
      ASSIGN_OR_RETURN(order, SortedOrder(env_, keys, false));
    }
    out_.Append("{");
    for (size_t i = 0; i < entries.size() && !out_.full(); ++i) {
      const auto& [key, value] = entries[sort_keys ? order[i] : i];
      if (i > 0) out_.Append(item_separator);
      NewLine(level + 1);
      RETURN_IF_ERROR(WriteKey(key));
      out_.Append(key_separator);
      RETURN_IF_ERROR(Write(value, level + 1));
    }
    if (!entries.empty()) NewLine(level);
    out_.Append("}");
    return absl::OkStatus();
  }

  Env& env_;
  TextBuilder& out_;
};

}  // namespace

absl::StatusOr<Value> ToJson(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  TextBuilder out(env);
  Writer writer(env, &out);
  writer.ensure_ascii = Truthy(a[0]);
  writer.sort_keys = Truthy(a[3]);
  const Value& indent = a[1];
  if (indent.is_integer()) {
    TextBuilder spaces(env);
    spaces.Repeat(MarkedText(" ", false), static_cast<size_t>(std::max<int64_t>(indent.integer(), 0)));
    ASSIGN_OR_RETURN(const Value made, spaces.Finish());
    writer.indent = made.text();
    writer.pretty = true;
  } else if (indent.is_string()) {
    writer.indent = indent.text();
    writer.pretty = true;
  } else if (!indent.is_none() && !indent.is_undefined()) {
    return Invalid("indent must be an integer, a string or none");
  }
  writer.item_separator = MarkedText(writer.pretty ? "," : ", ", false);
  writer.key_separator = MarkedText(": ", false);
  if (a[2].is(Type::kList) || a[2].is(Type::kTuple)) {
    const std::vector<Value>& separators = a[2].items();
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string()) {
      return Invalid("separators must be two strings");
    }
    writer.item_separator = separators[0].text();
    writer.key_separator = separators[1].text();
  } else if (!a[2].is_none() && !a[2].is_undefined()) {
    return Invalid("separators must be two strings");
  }
  RETURN_IF_ERROR(writer.Write(v, 0));
  return out.Finish();
}

}  // namespace dunlin::model::jinja
