#include "model/chat_template/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model {

using jinja::DictHeap;
using jinja::SequenceHeap;

Value Value::None() { return Value(Type::kNone, nullptr); }

Value Value::Bool(bool b) {
  Value v(Type::kBool, nullptr);
  v.int_ = b ? 1 : 0;
  return v;
}

Value Value::Int(int64_t i) {
  Value v(Type::kInt, nullptr);
  v.int_ = i;
  return v;
}

Value Value::Float(double d) {
  Value v(Type::kFloat, nullptr);
  v.float_ = d;
  return v;
}

Value Value::Function(int64_t id) {
  Value v(Type::kFunction, nullptr);
  v.int_ = id;
  return v;
}

Value Value::String(absl::string_view trusted) { return Text(MarkedText(std::string(trusted), false)); }
Value Value::Input(absl::string_view untrusted) { return Text(MarkedText(std::string(untrusted), true)); }
Value Value::Text(MarkedText text) { return Value(Type::kString, std::make_shared<MarkedText>(std::move(text))); }
Value Value::BigInt(std::string digits) {
  return Value(Type::kBigInt, std::make_shared<std::string>(std::move(digits)));
}
Value Value::Undefined(std::string why) {
  return Value(Type::kUndefined, std::make_shared<std::string>(std::move(why)));
}

Value Value::List(std::vector<Value> items) { return jinja::MakeSequence(Type::kList, std::move(items)); }

Value Value::Dict(std::vector<std::pair<std::string, Value>> items) {
  auto heap = std::make_shared<DictHeap>();
  for (auto& [key, value] : items) heap->Set(String(key), std::move(value));
  return Value(Type::kDict, std::move(heap));
}

int64_t Value::integer() const {
  CHECK(is_integer() || is(Type::kFunction));
  return int_;
}

double Value::number() const {
  CHECK(is_number());
  return type_ == Type::kFloat ? float_ : static_cast<double>(int_);
}

const MarkedText& Value::text() const {
  CHECK(is_string());
  return *heap<MarkedText>();
}

const std::string& Value::digits() const {
  CHECK(is(Type::kBigInt));
  return *heap<std::string>();
}

absl::string_view Value::why_undefined() const {
  return is_undefined() && heap_ != nullptr ? absl::string_view(*heap<std::string>()) : absl::string_view();
}

const std::vector<Value>& Value::items() const {
  CHECK(is_sequence());
  return heap<SequenceHeap>()->items;
}

const Value* Value::Find(absl::string_view key) const {
  CHECK(is_dict());
  return heap<DictHeap>()->Find(key);
}

int Value::depth() const {
  if (is_sequence()) return heap<SequenceHeap>()->depth;
  if (is_dict()) return heap<DictHeap>()->depth();
  if (is(Type::kMethod)) return 1 + heap<jinja::MethodHeap>()->self.depth();
  return type_ >= Type::kNamespace ? 1 : 0;
}

namespace jinja {
namespace {

constexpr size_t kIndexFrom = 8;  // smaller dicts are searched one entry after the other
constexpr size_t kMaxHashKeyBytes = 1 << 23;

void AppendScalarKey(const Value& key, std::string* out) {
  switch (key.type()) {
    case Value::Type::kString:
      absl::StrAppend(out, "s", key.text().size(), ":", key.text().view());
      return;
    case Value::Type::kNone:
      out->push_back('z');
      return;
    case Value::Type::kBigInt:
      absl::StrAppend(out, "n", key.digits(), ";");
      return;
    case Value::Type::kFloat: {
      const double d = key.number();
      if (d != std::floor(d) || !(std::abs(d) < 9e18)) {
        uint64_t bits = 0;
        std::memcpy(&bits, &d, sizeof(bits));
        absl::StrAppend(out, "f", bits, ";");
      } else {
        absl::StrAppend(out, "n", static_cast<int64_t>(d), ";");  // 1.0 and 1 are the same key
      }
      return;
    }
    case Value::Type::kBool:
    case Value::Type::kInt:
      absl::StrAppend(out, "n", key.integer(), ";");
      return;
    case Value::Type::kUndefined:
      out->push_back('u');
      return;
    default:  // identity
      absl::StrAppend(out, "i", static_cast<int>(key.type()), ",", reinterpret_cast<uintptr_t>(key.identity()), ";");
  }
}

}  // namespace

bool HashKey(const Value& key, std::string* out) {
  if (out->size() > kMaxHashKeyBytes) return false;
  if (key.is_dict() || key.is(Value::Type::kList) || key.is(Value::Type::kView)) return false;
  if (!key.is(Value::Type::kTuple)) {
    AppendScalarKey(key, out);
    return true;
  }
  out->push_back('(');
  for (const Value& item : key.items()) {
    if (!HashKey(item, out)) return false;
  }
  out->push_back(')');
  return true;
}

ptrdiff_t DictHeap::IndexOf(const std::string& hash_key) const {
  const auto it = index_.find(hash_key);
  return it == index_.end() ? -1 : static_cast<ptrdiff_t>(it->second);
}

ptrdiff_t DictHeap::IndexOf(const Value& key) const {
  if (key.is_string() && entries_.size() <= kIndexFrom) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      const Value& k = entries_[i].first;
      if (k.is_string() && k.text().view() == key.text().view()) return static_cast<ptrdiff_t>(i);
    }
    return -1;
  }
  std::string hash_key;
  return HashKey(key, &hash_key) ? IndexOf(hash_key) : -1;
}

const Value* DictHeap::Find(absl::string_view key) const {
  ptrdiff_t at = -1;
  if (entries_.size() <= kIndexFrom) {
    for (size_t i = 0; i < entries_.size() && at < 0; ++i) {
      const Value& k = entries_[i].first;
      if (k.is_string() && k.text().view() == key) at = static_cast<ptrdiff_t>(i);
    }
  } else {
    at = IndexOf(absl::StrCat("s", key.size(), ":", key));
  }
  return at < 0 ? nullptr : &entries_[static_cast<size_t>(at)].second;
}

bool DictHeap::Set(Value key, Value value) {
  std::string hash_key;
  if (!HashKey(key, &hash_key)) return false;
  depth_ = std::max({depth_, 1 + key.depth(), 1 + value.depth()});
  const auto [it, inserted] = index_.try_emplace(std::move(hash_key), entries_.size());
  if (inserted) {
    entries_.emplace_back(std::move(key), std::move(value));
  } else {
    entries_[it->second].second = std::move(value);
  }
  return true;
}

void DictHeap::Clear() {
  // Moved out first: destroying a member may reach this dict again.
  const std::vector<Entry> dropped = std::move(entries_);
  entries_.clear();
  index_.clear();
}

Value MakeSequence(Value::Type type, std::vector<Value> items) {
  auto heap = std::make_shared<SequenceHeap>();
  for (const Value& item : items) heap->depth = std::max(heap->depth, 1 + item.depth());
  heap->items = std::move(items);
  return Value::Object(type, std::move(heap));
}

Value MakeView(absl::string_view name, std::vector<Value> items) {
  Value v = MakeSequence(Value::Type::kView, std::move(items));
  v.heap<SequenceHeap>()->view_name = name;
  return v;
}

Value MakeGenerator(std::vector<Value> items, absl::Status failure) {
  Value v = MakeSequence(Value::Type::kGenerator, std::move(items));
  v.heap<SequenceHeap>()->failure = std::move(failure);
  return v;
}

}  // namespace jinja
}  // namespace dunlin::model
