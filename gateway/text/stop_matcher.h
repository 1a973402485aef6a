// Finds stop strings in a text that arrives in pieces, and lets through at once everything that cannot become one.
// The match that completes first wins; of several that complete at the same byte, the longest. So the result depends on
// the text alone, never on how it was cut into pieces. Thread-safety: one stream, one thread.  Owns: the stop strings.
// Errors: CHECK-fails on an empty stop string or on Append after a match.
// Cost: O(bytes × stops) with at most 16 stops; holds back at most the longest stop minus one byte.
// Source: Knuth, Morris, Pratt (1977), one automaton per stop string.
#ifndef DUNLIN_GATEWAY_TEXT_STOP_MATCHER_H_
#define DUNLIN_GATEWAY_TEXT_STOP_MATCHER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace dunlin::gateway {

class StopMatcher {
 public:
  // include_stop: the matched string itself is let through.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  // Appends what is certain to *out. Returns the index of the stop string once it matched; what follows it is dropped.
  std::optional<size_t> Append(absl::string_view text, std::string* out);
  // The text ended without a match: appends what was held back.
  void Finish(std::string* out);

  size_t held_bytes() const { return held_.size(); }
  const std::string& stop(size_t index) const { return stops_[index].text; }

 private:
  struct Stop {
    std::string text;
    std::vector<uint16_t> failure;  // failure[i]: longest proper border of text[0, i]
    size_t matched = 0;             // bytes of `text` that the end of the input matches
  };

  std::vector<Stop> stops_;
  const bool include_stop_;
  bool done_ = false;
  std::string held_;  // the end of the input that is a prefix of some stop string
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_TEXT_STOP_MATCHER_H_
