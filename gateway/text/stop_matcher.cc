#include "gateway/text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace dunlin::gateway {
namespace {

std::vector<uint16_t> FailureTable(const std::string& text) {
  std::vector<uint16_t> failure(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    size_t border = failure[i - 1];
    while (border > 0 && text[i] != text[border]) border = failure[border - 1];
    if (text[i] == text[border]) ++border;
    failure[i] = static_cast<uint16_t>(border);
  }
  return failure;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop) : include_stop_(include_stop) {
  for (std::string& text : stops) {
    CHECK(!text.empty()) << "an empty stop string matches everywhere";
    CHECK_LE(text.size(), size_t{UINT16_MAX});
    std::vector<uint16_t> failure = FailureTable(text);
    stops_.push_back({std::move(text), std::move(failure), 0});
  }
}

std::optional<size_t> StopMatcher::Append(absl::string_view text, std::string* out) {
  CHECK(!done_) << "Append after a match";
  if (stops_.empty()) {
    out->append(text.data(), text.size());
    return std::nullopt;
  }
  size_t longest_partial = 0;
  for (const char byte : text) {
    held_.push_back(byte);
    longest_partial = 0;
    std::optional<size_t> complete;
    for (size_t i = 0; i < stops_.size(); ++i) {
      Stop& stop = stops_[i];
      while (stop.matched > 0 && stop.text[stop.matched] != byte) stop.matched = stop.failure[stop.matched - 1];
      if (stop.text[stop.matched] == byte) ++stop.matched;
      longest_partial = std::max(longest_partial, stop.matched);
      if (stop.matched < stop.text.size()) continue;
      if (!complete.has_value() || stop.text.size() > stops_[*complete].text.size()) complete = i;
    }
    if (complete.has_value()) {
      const size_t keep = held_.size() - (include_stop_ ? 0 : stops_[*complete].text.size());
      out->append(held_, 0, keep);
      held_.clear();
      done_ = true;
      return complete;
    }
  }
  if (!text.empty()) {
    const size_t certain = held_.size() - longest_partial;
    out->append(held_, 0, certain);
    held_.erase(0, certain);
  }
  return std::nullopt;
}

void StopMatcher::Finish(std::string* out) {
  out->append(held_);
  held_.clear();
  done_ = true;
}

}  // namespace dunlin::gateway
