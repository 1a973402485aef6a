// Attributes, subscripts, slices, length, iteration.
#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

std::string Described(const Value& v) {
  return v.is_none() ? std::string("None") : absl::StrCat("'", TypeName(v), " object'");
}

Value NoAttribute(const Value& obj, const Value& name) {
  if (name.is_string()) {
    return Value::Undefined(
        absl::StrCat(Described(obj), " has no attribute '", name.text().view().substr(0, 200), "'"));
  }
  return Value::Undefined(absl::StrCat(TypeName(obj), " object has no element ",
                                       name.is_integer() ? absl::StrCat(name.integer()) : std::string(TypeName(name))));
}

// A method of the type; false when there is none.
absl::StatusOr<bool> TypeAttribute(const Value& obj, absl::string_view name, Value* out) {
  switch (FindMethod(obj, name)) {
    case MethodKind::kNone:
      return false;
    case MethodKind::kUnsafe:
      *out =
          Value::Undefined(absl::StrCat("access to attribute '", name, "' of '", TypeName(obj), "' object is unsafe."));
      return true;
    case MethodKind::kUsable:
      *out = Value::Object(Type::kMethod, std::make_shared<MethodHeap>(MethodHeap{obj, std::string(name)}));
      return true;
  }
  return false;
}

// obj[key] as Python's operator; false where that raises TypeError or LookupError.
absl::StatusOr<bool> Subscript(Env& env, const Value& obj, const Value& key, Value* out) {
  if (obj.is_dict()) {
    const DictHeap& dict = *obj.heap<DictHeap>();
    if (key.is_string()) RETURN_IF_ERROR(env.SpendBytes(key.text().size()));
    const ptrdiff_t at = dict.IndexOf(key);
    if (at < 0) return false;
    *out = dict.entries()[static_cast<size_t>(at)].second;
    return true;
  }
  if (!key.is_integer()) return false;
  int64_t index = key.integer();
  if (obj.is(Type::kList) || obj.is(Type::kTuple) || obj.is(Type::kRange)) {
    const int64_t size = static_cast<int64_t>(obj.items().size());
    if (index < 0) index += size;
    if (index < 0 || index >= size) return false;
    *out = obj.items()[static_cast<size_t>(index)];
    return true;
  }
  if (obj.is_string()) {
    const MarkedText& text = obj.text();
    RETURN_IF_ERROR(env.Spend(text.size() / 64));
    if (index < 0) index += static_cast<int64_t>(CountPoints(text.view()));
    if (index < 0) return false;
    const size_t begin = OffsetOfPoint(text.view(), static_cast<size_t>(index));
    if (begin >= text.size()) return false;
    *out = Value::Text(text.Slice(begin, begin + Decode(text.view(), begin).size));
    return true;
  }
  return false;
}

struct SliceBounds {
  int64_t start, stop, step;
  size_t count;
};

// Python's slice.indices, with the number of elements it picks.
absl::StatusOr<SliceBounds> Bounds(const Value& start, const Value& stop, const Value& step, int64_t size) {
  const auto given = [](const Value& v) { return !v.is_none(); };
  for (const Value* v : {&start, &stop, &step}) {
    if (v->is_undefined()) return UndefinedError(*v);
    if (given(*v) && !v->is_integer()) {
      return Invalid("slice indices must be integers or None or have an __index__ method");
    }
  }
  SliceBounds b{0, 0, given(step) ? step.integer() : 1, 0};
  if (b.step == 0) return Invalid("slice step cannot be zero");
  b.step = std::clamp<int64_t>(b.step, -std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max());
  const int64_t low = b.step < 0 ? -1 : 0, high = b.step < 0 ? size - 1 : size;
  const auto clip = [&](int64_t i) { return i < 0 ? std::max(i + size, low) : std::min(i, high); };
  b.start = given(start) ? clip(start.integer()) : b.step < 0 ? high : low;
  b.stop = given(stop) ? clip(stop.integer()) : b.step < 0 ? low : high;
  const int64_t span = b.step < 0 ? b.start - b.stop : b.stop - b.start;
  const int64_t stride = b.step < 0 ? -b.step : b.step;
  b.count = span > 0 ? static_cast<size_t>((span - 1) / stride + 1) : 0;
  return b;
}

absl::StatusOr<Value> SliceText(Env& env, const MarkedText& text, const Value& start, const Value& stop,
                                const Value& step) {
  RETURN_IF_ERROR(env.Spend(text.size() / 32));
  const absl::string_view s = text.view();
  ASSIGN_OR_RETURN(const SliceBounds b, Bounds(start, stop, step, static_cast<int64_t>(CountPoints(s))));
  if (b.count == 0) return Value::String("");
  const size_t first = OffsetOfPoint(s, static_cast<size_t>(b.start));
  if (b.step == 1) return env.NewText(text.Slice(first, first + OffsetOfPoint(s.substr(first), b.count)));
  RETURN_IF_ERROR(env.Spend(text.size() / 8));
  std::vector<size_t> offsets;
  for (size_t i = 0; i < s.size(); i += Decode(s, i).size) offsets.push_back(i);
  offsets.push_back(s.size());
  TextBuilder out(env);
  for (size_t i = 0; i < b.count; ++i) {
    const size_t at = static_cast<size_t>(b.start + static_cast<int64_t>(i) * b.step);
    out.Append(text, offsets[at], offsets[at + 1]);
  }
  return out.Finish();
}

}  // namespace

absl::StatusOr<Value> GetAttr(Env& env, const Value& obj, const Value& name) {
  if (obj.is_undefined()) return UndefinedError(obj);
  Value out;
  if (obj.is(Type::kNamespace)) {
    const Value* found = obj.heap<DictHeap>()->Find(name.text().view());
    return found != nullptr ? *found : NoAttribute(obj, name);
  }
  ASSIGN_OR_RETURN(const bool is_attribute, TypeAttribute(obj, name.text().view(), &out));
  if (is_attribute) return out;
  ASSIGN_OR_RETURN(const bool found, Subscript(env, obj, name, &out));
  return found ? out : NoAttribute(obj, name);
}

absl::StatusOr<Value> GetItem(Env& env, const Value& obj, const Value& key) {
  if (obj.is_undefined()) return UndefinedError(obj);
  Value out;
  ASSIGN_OR_RETURN(const bool found, Subscript(env, obj, key, &out));
  if (found) return out;
  if (!key.is_string()) return NoAttribute(obj, key);
  if (obj.is(Type::kNamespace)) return GetAttr(env, obj, key);
  ASSIGN_OR_RETURN(const bool is_attribute, TypeAttribute(obj, key.text().view(), &out));
  return is_attribute ? out : NoAttribute(obj, key);
}

absl::StatusOr<Value> GetSlice(Env& env, const Value& obj, const Value& start, const Value& stop, const Value& step) {
  if (obj.is_undefined()) return UndefinedError(obj);
  if (obj.is_string()) return SliceText(env, obj.text(), start, stop, step);
  if (!obj.is(Type::kList) && !obj.is(Type::kTuple) && !obj.is(Type::kRange)) {
    return Invalid(obj.is_dict() ? "unhashable type: 'slice'"
                                 : absl::StrCat("'", TypeName(obj), "' object is not subscriptable"));
  }
  const std::vector<Value>& items = obj.items();
  ASSIGN_OR_RETURN(const SliceBounds b, Bounds(start, stop, step, static_cast<int64_t>(items.size())));
  RETURN_IF_ERROR(env.Spend(b.count));
  std::vector<Value> out;
  out.reserve(b.count);
  for (size_t i = 0; i < b.count; ++i) {
    out.push_back(items[static_cast<size_t>(b.start + static_cast<int64_t>(i) * b.step)]);
  }
  ASSIGN_OR_RETURN(const Value made, env.NewSequence(obj.type(), std::move(out)));
  if (obj.is(Type::kRange)) {  // the bounds, for printing; they wrap rather than overflow
    const SequenceHeap& from = *obj.heap<SequenceHeap>();
    SequenceHeap& to = *made.heap<SequenceHeap>();
    const auto at = [&](int64_t index) {
      return static_cast<int64_t>(static_cast<uint64_t>(from.start) +
                                  static_cast<uint64_t>(index) * static_cast<uint64_t>(from.step));
    };
    to.start = at(b.start);
    to.stop = at(b.stop);
    to.step = static_cast<int64_t>(static_cast<uint64_t>(from.step) * static_cast<uint64_t>(b.step));
  }
  return made;
}

absl::StatusOr<size_t> Length(Env& env, const Value& v) {
  switch (v.type()) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      RETURN_IF_ERROR(env.SpendBytes(v.text().size()));
      return CountPoints(v.text().view());
    case Type::kList:
    case Type::kTuple:
    case Type::kRange:
    case Type::kView:
      return v.items().size();
    case Type::kDict:
      return v.heap<DictHeap>()->entries().size();
    default:
      return Invalid(absl::StrCat("object of type '", TypeName(v), "' has no len()"));
  }
}

bool IsIterable(const Value& v) { return v.is_undefined() || v.is_string() || v.is_sequence() || v.is_dict(); }

absl::StatusOr<std::vector<Value>> Iterate(Env& env, const Value& v) {
  std::vector<Value> out;
  switch (v.type()) {
    case Type::kUndefined:
      return out;
    case Type::kString: {
      const MarkedText& text = v.text();
      RETURN_IF_ERROR(env.Spend(text.size()));
      for (size_t i = 0, size = 0; i < text.size(); i += size) {
        size = Decode(text.view(), i).size;
        out.push_back(Value::Text(text.Slice(i, i + size)));
      }
      return out;
    }
    case Type::kList:
    case Type::kTuple:
    case Type::kRange:
    case Type::kView:
      RETURN_IF_ERROR(env.Spend(v.items().size()));
      return v.items();
    case Type::kGenerator: {
      SequenceHeap& heap = *v.heap<SequenceHeap>();
      RETURN_IF_ERROR(env.Spend(heap.items.size()));
      out.assign(heap.items.begin() + static_cast<ptrdiff_t>(heap.next), heap.items.end());
      heap.next = heap.items.size();
      if (!heap.failure.ok()) return std::exchange(heap.failure, absl::OkStatus());
      return out;
    }
    case Type::kDict: {
      const auto& entries = v.heap<DictHeap>()->entries();
      RETURN_IF_ERROR(env.Spend(entries.size()));
      for (const auto& entry : entries) out.push_back(entry.first);
      return out;
    }
    default:
      return Invalid(absl::StrCat("'", TypeName(v), "' object is not iterable"));
  }
}

}  // namespace dunlin::model::jinja
