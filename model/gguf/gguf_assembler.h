// Describes a model that is not a GGUF file in GGUF's keys and tensor names, so that everything after opening (the
// configuration, the tokenizer, the chat template, loading, listings) reads one kind of description.
// Thread-safety: none needed.  Owns: the texts, until Finish hands them over with the description that views them.
// Errors: a key or tensor given twice returns kInvalidArgument from Finish, naming it.  Source: ours.
#ifndef DUNLIN_MODEL_GGUF_GGUF_ASSEMBLER_H_
#define DUNLIN_MODEL_GGUF_GGUF_ASSEMBLER_H_

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/gguf/gguf.h"

namespace dunlin::model {

class GgufAssembler {
 public:
  void Int(absl::string_view key, int64_t value);
  void Float(absl::string_view key, double value);
  void Bool(absl::string_view key, bool value);
  void String(absl::string_view key, std::string value);
  void Strings(absl::string_view key, std::vector<std::string> values);
  void Ints(absl::string_view key, std::vector<int64_t> values);
  // data: empty, or exactly the bytes of the type's blocks; borrowed.
  void Tensor(absl::string_view name, kernels::DType type, std::vector<int64_t> dims, std::span<const uint8_t> data);

  // The views in `gguf` are into `texts`; moving a Description keeps them valid.
  struct Description {
    Gguf gguf;
    std::deque<std::string> texts;
  };
  // Leaves the assembler empty.
  absl::StatusOr<Description> Finish();

 private:
  void Add(absl::string_view key, GgufValue value);
  absl::string_view Keep(std::string text);

  Description out_;
  absl::Status status_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_GGUF_GGUF_ASSEMBLER_H_
