// What container values point to (private to the interpreter).
// Thread-safety: none of its own; one value tree belongs to one thread.
// Lists, tuples and dicts never change once a template can see them (Jinja's immutable sandbox), so they cannot form
// cycles. Namespaces, macros and loops can: the interpreter empties those when a rendering ends.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_HEAP_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_HEAP_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

struct SequenceHeap {
  std::vector<Value> items;
  int depth = 1;
  // kGenerator: items before `next` are consumed; `failure` is reported by whoever reads past the last item.
  size_t next = 0;
  absl::Status failure;
  // kRange
  int64_t start = 0, stop = 0, step = 1;
  // kView: "dict_keys", "dict_values", "dict_items"
  absl::string_view view_name;
};

// The text that two keys share exactly when Python's dict treats them as equal. False when `key` is unhashable (or a
// tuple so large that it must not be a key).
bool HashKey(const Value& key, std::string* out);

class DictHeap {
 public:
  using Entry = std::pair<Value, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  int depth() const { return depth_; }
  // The index of an entry, or -1. `key` must be hashable.
  ptrdiff_t IndexOf(const Value& key) const;
  const Value* Find(absl::string_view key) const;
  // Inserts or replaces (the first place is kept). False when the key is unhashable.
  bool Set(Value key, Value value);
  void Clear();

 private:
  ptrdiff_t IndexOf(const std::string& hash_key) const;

  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, size_t> index_;  // by HashKey
  int depth_ = 1;
};

struct MethodHeap {
  Value self;
  std::string name;
};

Value MakeSequence(Value::Type type, std::vector<Value> items);
Value MakeView(absl::string_view name, std::vector<Value> items);
Value MakeGenerator(std::vector<Value> items, absl::Status failure);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_HEAP_H_
