// What a GGUF file (v2, v3) says: metadata by key, tensors by name. These keys and names are also how every other kind
// of model file is described inside Dunlin (gguf_assembler.h builds such a description). Parse knows no files.
// Thread-safety: const-safe once constructed.  Owns: the parsed tables. Tensor data and strings are views into the
// bytes, which must outlive the views. Errors: kInvalidArgument naming the key or tensor, its value and the limit;
// kUnimplemented for a version, byte order or tensor type this build cannot read. Hostile bytes never crash or
// over-allocate. Source: ggml docs/gguf.md; the checks are those of its reference reader.
#ifndef DUNLIN_MODEL_GGUF_GGUF_H_
#define DUNLIN_MODEL_GGUF_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/dtype.h"

namespace dunlin::model {

// GGUF's value types, with the ids of the format.
enum class GgufType : int32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// One metadata value. Numbers keep their exact value: integers of every width as int64 or uint64, floats as double.
struct GgufValue {
  GgufType type;          // kArray for arrays
  GgufType element_type;  // arrays only
  std::variant<std::monostate, bool, int64_t, uint64_t, double, absl::string_view> scalar;
  std::vector<absl::string_view> strings;  // array of strings
  std::vector<double> floats;              // array of f32/f64
  std::vector<int64_t> integers;           // array of any integer or bool type
  size_t array_size() const;
};

// One tensor. dims[0] is the contiguous dimension: a weight [out, in] has dims = {in, out}.
struct GgufTensor {
  std::string name;
  kernels::DType type;
  std::vector<int64_t> dims;  // 1..4 entries, each >= 1
  std::span<const uint8_t>
      data;  // exactly the tensor's bytes; empty where the file holds another form (ModelFile::Read)
  int64_t num_elements() const;
  size_t num_bytes() const;  // in blocks of `type`
  int64_t cols() const;      // dims[0]
  int64_t rows() const;      // num_elements() / cols()
};

class Gguf {
 public:
  // Parses `bytes`, which must outlive the result. `bytes` may be unaligned. With vocabulary_only files (no tensors)
  // allowed.
  static absl::StatusOr<Gguf> Parse(std::span<const uint8_t> bytes);

  int version() const { return version_; }  // 0: described, not a GGUF file
  size_t alignment() const { return alignment_; }

  // Keys in file order.
  const std::vector<std::string>& keys() const { return keys_; }
  const GgufValue* Find(absl::string_view key) const;  // nullptr when absent
  // Typed access. Integer keys accept any integer type of the file. Absent: kNotFound naming the key; wrong type or out
  // of range: kInvalidArgument naming the key, its type and what is wanted.
  absl::StatusOr<int64_t> GetInt(absl::string_view key, int64_t min, int64_t max) const;
  absl::StatusOr<double> GetFloat(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<absl::string_view> GetString(absl::string_view key) const;
  // The same with a default for an absent key; a present key of the wrong type is still an error.
  absl::StatusOr<int64_t> GetIntOr(absl::string_view key, int64_t fallback, int64_t min, int64_t max) const;
  absl::StatusOr<double> GetFloatOr(absl::string_view key, double fallback) const;
  absl::StatusOr<bool> GetBoolOr(absl::string_view key, bool fallback) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // file order
  const GgufTensor* FindTensor(absl::string_view name) const;          // nullptr when absent

 private:
  friend class GgufParser;
  friend class GgufAssembler;
  int version_ = 0;
  size_t alignment_ = 32;
  std::vector<std::string> keys_;
  absl::flat_hash_map<std::string, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> tensor_index_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_GGUF_GGUF_H_
