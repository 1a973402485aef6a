// str() and repr() of values, type names, the error of undefined values.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

// A string literal as Python's repr writes it; marks stay on the characters.
void AppendStringRepr(const MarkedText& text, TextBuilder* out) {
  const absl::string_view s = text.view();
  const bool has_single = s.find('\'') != absl::string_view::npos;
  const char quote = has_single && s.find('"') == absl::string_view::npos ? '"' : '\'';
  const absl::string_view quote_text(&quote, 1);
  out->Append(quote_text);
  for (size_t i = 0; i < s.size() && !out->full();) {
    const CodePoint p = Decode(s, i);
    const bool input = text.AnyInput(i, i + 1);
    const uint32_t c = p.value;
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      out->Append("\\", input);
      out->Append(text, i, i + 1);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out->Append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", input);
    } else if (IsPrintable(c)) {
      out->Append(text, i, i + p.size);
    } else {
      out->Append(c < 0x100     ? absl::StrFormat("\\x%02x", c)
                  : c < 0x10000 ? absl::StrFormat("\\u%04x", c)
                                : absl::StrFormat("\\U%08x", c),
                  input);
    }
    i += p.size;
  }
  out->Append(quote_text);
}

absl::Status AppendItems(Env& env, const std::vector<Value>& items, TextBuilder* out) {
  for (size_t i = 0; i < items.size() && !out->full(); ++i) {
    if (i > 0) out->Append(", ");
    RETURN_IF_ERROR(AppendRepr(env, items[i], out));
  }
  return absl::OkStatus();
}

absl::Status AppendSequence(Env& env, const Value& v, TextBuilder* out) {
  const SequenceHeap& heap = *v.heap<SequenceHeap>();
  switch (v.type()) {
    case Type::kRange:
      out->Append(absl::StrCat("range(", heap.start, ", ", heap.stop));
      if (heap.step != 1) out->Append(absl::StrCat(", ", heap.step));
      out->Append(")");
      return absl::OkStatus();
    case Type::kGenerator:
      out->Append("<generator object>");
      return absl::OkStatus();
    case Type::kView:
      out->Append(heap.view_name);
      out->Append("([");
      RETURN_IF_ERROR(AppendItems(env, heap.items, out));
      out->Append("])");
      return absl::OkStatus();
    case Type::kTuple:
      out->Append("(");
      RETURN_IF_ERROR(AppendItems(env, heap.items, out));
      out->Append(heap.items.size() == 1 ? ",)" : ")");
      return absl::OkStatus();
    default:
      out->Append("[");
      RETURN_IF_ERROR(AppendItems(env, heap.items, out));
      out->Append("]");
      return absl::OkStatus();
  }
}

absl::Status AppendDict(Env& env, const DictHeap& dict, TextBuilder* out) {
  out->Append("{");
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (out->full()) break;
    if (!first) out->Append(", ");
    first = false;
    RETURN_IF_ERROR(AppendRepr(env, key, out));
    out->Append(": ");
    RETURN_IF_ERROR(AppendRepr(env, value, out));
  }
  out->Append("}");
  return absl::OkStatus();
}

}  // namespace

absl::string_view TypeName(const Value& v) {
  switch (v.type()) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
    case Type::kBigInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kRange:
      return "range";
    case Type::kGenerator:
      return "generator";
    case Type::kView:
      return v.heap<SequenceHeap>()->view_name;
    case Type::kDict:
      return "dict";
    case Type::kNamespace:
      return "Namespace";
    case Type::kMethod:
      return "builtin_function_or_method";
    case Type::kFunction:
      return "function";
    case Type::kMacro:
      return "Macro";
    case Type::kLoop:
      return "LoopContext";
  }
  return "object";
}

absl::Status UndefinedError(const Value& v) {
  return Invalid(v.why_undefined().empty() ? "an undefined value was used" : v.why_undefined());
}

absl::Status AppendRepr(Env& env, const Value& v, TextBuilder* out) {
  RETURN_IF_ERROR(env.Spend(1));
  switch (v.type()) {
    case Type::kUndefined:
      out->Append("Undefined");
      return absl::OkStatus();
    case Type::kNone:
      out->Append("None");
      return absl::OkStatus();
    case Type::kBool:
      out->Append(v.integer() != 0 ? "True" : "False");
      return absl::OkStatus();
    case Type::kInt:
      out->Append(absl::StrCat(v.integer()));
      return absl::OkStatus();
    case Type::kBigInt:
      out->Append(v.digits());
      return absl::OkStatus();
    case Type::kFloat:
      out->Append(FloatRepr(v.number()));
      return absl::OkStatus();
    case Type::kString:
      RETURN_IF_ERROR(env.Spend(v.text().size() / 32));
      AppendStringRepr(v.text(), out);
      return absl::OkStatus();
    case Type::kDict:
      return AppendDict(env, *v.heap<DictHeap>(), out);
    case Type::kNamespace:
      out->Append("<Namespace>");
      return absl::OkStatus();
    case Type::kMethod:
      out->Append(absl::StrCat("<method ", v.heap<MethodHeap>()->name, ">"));
      return absl::OkStatus();
    case Type::kFunction:
      out->Append("<function>");
      return absl::OkStatus();
    case Type::kMacro:
      out->Append("<Macro>");
      return absl::OkStatus();
    case Type::kLoop:
      out->Append("<LoopContext>");
      return absl::OkStatus();
    default:
      return AppendSequence(env, v, out);
  }
}

absl::Status AppendStr(Env& env, const Value& v, TextBuilder* out) {
  if (v.is_undefined()) return absl::OkStatus();
  if (!v.is_string()) return AppendRepr(env, v, out);
  RETURN_IF_ERROR(env.SpendBytes(v.text().size()));
  out->Append(v.text());
  return absl::OkStatus();
}

absl::StatusOr<Value> ToStr(Env& env, const Value& v) {
  if (v.is_string()) return v;
  TextBuilder out(env);
  RETURN_IF_ERROR(AppendStr(env, v, &out));
  return out.Finish();
}

}  // namespace dunlin::model::jinja
