// What a safetensors file says: tensors by name. Parse knows no files.
// Thread-safety: const-safe once constructed.  Owns: the table; tensor data are views into the bytes, which must
// outlive them. Errors: kInvalidArgument naming the tensor, its value and the limit; kUnimplemented for a dtype that is
// not known. Hostile bytes never crash or over-allocate: nothing in the header is believed before it was compared with
// the bytes there are. Source: the published format (u64 header length, JSON header, data).
#ifndef DUNLIN_MODEL_SAFETENSORS_SAFETENSORS_H_
#define DUNLIN_MODEL_SAFETENSORS_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::model {

struct SafeTensor {
  std::string name;
  std::string dtype;              // as the file spells it, one of the known ones: "F32", "BF16", "I32", ...
  std::vector<int64_t> shape;     // row-major, outermost first; may be empty (a single number) or hold 0
  std::span<const uint8_t> data;  // exactly the tensor's bytes, any alignment
  int64_t num_elements() const;
};

class SafeTensors {
 public:
  static constexpr size_t kMaxHeaderBytes = 100'000'000;
  static constexpr size_t kMaxDims = 8;

  static absl::StatusOr<SafeTensors> Parse(std::span<const uint8_t> bytes);

  const std::vector<SafeTensor>& tensors() const { return tensors_; }  // in the order of their data
  const SafeTensor* Find(absl::string_view name) const;                // nullptr when absent

 private:
  std::vector<SafeTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_SAFETENSORS_SAFETENSORS_H_
