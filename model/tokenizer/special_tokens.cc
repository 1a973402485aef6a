#include "model/tokenizer/special_tokens.h"

#include "base/check.h"

namespace dunlin::model {

void SpecialTokens::Add(absl::string_view text, TokenId id, bool is_control) {
  CHECK(!text.empty());
  starts_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const auto [it, inserted] =
        edges_.try_emplace(uint64_t{node} << 8 | static_cast<uint8_t>(c), static_cast<uint32_t>(nodes_.size()));
    if (inserted) nodes_.emplace_back();
    node = it->second;
  }
  if (nodes_[node].id < 0) nodes_[node] = {id, is_control};
}

SpecialTokens::Match SpecialTokens::LongestAt(absl::string_view text, size_t begin, size_t trusted_end) const {
  Match best = {begin, 0, -1};
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto it = edges_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (it == edges_.end()) break;
    node = it->second;
    const Node& reached = nodes_[node];
    if (reached.id >= 0 && (!reached.is_control || i < trusted_end)) best = {begin, i + 1 - begin, reached.id};
  }
  return best;
}

SpecialTokens::Match SpecialTokens::Find(absl::string_view text, size_t from, const std::vector<Trusted>& trusted,
                                         size_t* next_trusted) const {
  for (size_t i = from; i < text.size(); ++i) {
    if (!starts_[static_cast<uint8_t>(text[i])]) continue;
    while (*next_trusted < trusted.size() && trusted[*next_trusted].end <= i) ++*next_trusted;
    const bool inside = *next_trusted < trusted.size() && trusted[*next_trusted].begin <= i;
    const Match match = LongestAt(text, i, inside ? trusted[*next_trusted].end : 0);
    if (match.length != 0) return match;
  }
  return {text.size(), 0, -1};
}

}  // namespace dunlin::model
