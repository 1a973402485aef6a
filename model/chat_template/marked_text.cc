#include "model/chat_template/marked_text.h"

#include <algorithm>

#include "base/check.h"

namespace dunlin::model {
namespace {

// The first range that ends after `pos`.
std::vector<MarkedText::Range>::const_iterator FirstAfter(const std::vector<MarkedText::Range>& ranges, size_t pos) {
  return std::upper_bound(ranges.begin(), ranges.end(), pos,
                          [](size_t p, const MarkedText::Range& r) { return p < r.end; });
}

}  // namespace

bool MarkedText::AnyInput(size_t begin, size_t end) const {
  const auto it = FirstAfter(input_, begin);
  return it != input_.end() && it->begin < end;
}

void MarkedText::Mark(size_t begin, size_t end) {
  if (begin == end) return;
  if (!input_.empty() && input_.back().end == begin) {
    input_.back().end = end;
  } else {
    input_.push_back({begin, end});
  }
}

void MarkedText::Append(absl::string_view bytes, bool input) {
  const size_t begin = bytes_.size();
  bytes_.append(bytes.data(), bytes.size());
  if (input) Mark(begin, bytes_.size());
}

void MarkedText::Append(const MarkedText& other, size_t begin, size_t end) {
  CHECK(&other != this);
  CHECK_LE(begin, end);
  CHECK_LE(end, other.size());
  const size_t base = bytes_.size();
  bytes_.append(other.bytes_, begin, end - begin);
  for (auto it = FirstAfter(other.input_, begin); it != other.input_.end() && it->begin < end; ++it) {
    Mark(base + std::max(it->begin, begin) - begin, base + std::min(it->end, end) - begin);
  }
}

MarkedText MarkedText::Slice(size_t begin, size_t end) const {
  MarkedText out;
  out.Append(*this, begin, end);
  return out;
}

}  // namespace dunlin::model
