// The small byte-level vocabulary that gateway tests speak: the token of byte b is kFirstByteToken + b.
// Thread-safety: plain functions.  Errors: CHECK-fails when the file cannot be built or written.
#ifndef DUNLIN_TESTS_GATEWAY_TINY_MODEL_H_
#define DUNLIN_TESTS_GATEWAY_TINY_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::testing {

inline constexpr uint32_t kFirstByteToken = 3;
inline constexpr uint32_t kEndToken = 2;

// Process-wide.
const model::Tokenizer& TinyTokenizer();
// One token per byte (no merges), as a worker might sample them.
std::vector<uint32_t> BytesAsTokens(absl::string_view text);

// The model as a file in the test's temporary folder; removed with the object.
class TinyModelFile {
 public:
  TinyModelFile();
  ~TinyModelFile();
  TinyModelFile(const TinyModelFile&) = delete;
  TinyModelFile& operator=(const TinyModelFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_GATEWAY_TINY_MODEL_H_
