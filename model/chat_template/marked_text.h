// UTF-8 text in which every byte is either trusted or input (came from a client).
// Thread-safety: a plain value.  Units: bytes.
// Invariant: the marks never get lost. Every operation that copies bytes copies their marks; there is none that clears
// one.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_MARKED_TEXT_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_MARKED_TEXT_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace dunlin::model {

class MarkedText {
 public:
  struct Range {
    size_t begin, end;
    bool operator==(const Range&) const = default;
  };

  MarkedText() = default;
  MarkedText(std::string bytes, bool input) : bytes_(std::move(bytes)) {
    if (input && !bytes_.empty()) input_.push_back({0, bytes_.size()});
  }

  absl::string_view view() const { return bytes_; }
  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool has_input() const { return !input_.empty(); }
  // Where input bytes are: ascending, disjoint, not adjacent, not empty.
  const std::vector<Range>& input_ranges() const { return input_; }
  // Whether any byte of [begin, end) is input.
  bool AnyInput(size_t begin, size_t end) const;

  void Append(absl::string_view bytes, bool input);
  void Append(const MarkedText& other) { Append(other, 0, other.size()); }
  // The bytes [begin, end) of `other`, which must not be *this.
  void Append(const MarkedText& other, size_t begin, size_t end);
  MarkedText Slice(size_t begin, size_t end) const;

 private:
  void Mark(size_t begin, size_t end);

  std::string bytes_;
  std::vector<Range> input_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_MARKED_TEXT_H_
