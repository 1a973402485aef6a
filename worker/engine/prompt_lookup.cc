#include "worker/engine/prompt_lookup.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace dunlin::worker {
namespace {

constexpr int32_t kLeastEntries = 1 << 10, kMostEntries = 1 << 14;
// What is thought of a match of up to 2, 4, 8 and more tokens before anything was seen: about what texts that repeat
// themselves show, but for the shortest, which has to prove itself first.
constexpr std::array<float, 4> kFirstOdds = {0.25f, 0.6f, 0.8f, 0.9f};
constexpr float kLearn = 0.125f;  // remembers about eight guesses

}  // namespace

PromptLookup::PromptLookup(std::span<const int32_t> tokens, int32_t max_tokens) : odds_(kFirstOdds) {
  const auto entries = std::bit_ceil(static_cast<uint32_t>(std::clamp(max_tokens, kLeastEntries, kMostEntries)));
  shift_ = 64 - std::countr_zero(entries);
  pairs_.resize(entries);
  triples_.resize(entries);
  for (size_t n = 1; n <= tokens.size(); ++n) {
    next_ = 0;
    Look(tokens.first(n));
  }
}

int32_t PromptLookup::Enter(std::span<const int32_t> tokens, int32_t n, std::vector<int32_t>* index) const {
  const auto end = static_cast<int32_t>(tokens.size());
  if (end < n) return 0;
  const std::span<const int32_t> gram = tokens.last(static_cast<size_t>(n));
  uint64_t hash = 0;
  for (const int32_t t : gram) hash = (hash + static_cast<uint32_t>(t) + 1) * 0x9E3779B97F4A7C15u;
  int32_t& entry = (*index)[hash >> shift_];
  const int32_t before = entry;
  entry = end;
  if (before < n) return 0;
  const std::span<const int32_t> found = tokens.subspan(static_cast<size_t>(before - n), static_cast<size_t>(n));
  return std::equal(gram.begin(), gram.end(), found.begin()) ? before : 0;
}

void PromptLookup::Look(std::span<const int32_t> tokens) {
  const int32_t pair = Enter(tokens, 2, &pairs_), triple = Enter(tokens, 3, &triples_);
  if (next_ > 0) return;
  next_ = triple > 0 ? triple : pair;
  matched_ = triple > 0 ? 3 : 2;
}

void PromptLookup::Append(std::span<const int32_t> tokens) {
  if (next_ > 0) {
    CHECK_LT(static_cast<size_t>(next_) + 1, tokens.size());
    const bool right = tokens[static_cast<size_t>(next_)] == tokens.back();
    float& odds = odds_[OddsOf(matched_)];
    odds += ((right ? 1.0f : 0.0f) - odds) * kLearn;
    next_ = right ? next_ + 1 : 0;
    matched_ += right ? 1 : 0;
  }
  Look(tokens);
}

bool PromptLookup::Draft(std::span<const int32_t> tokens, std::span<int32_t> draft) const {
  if (next_ == 0) return false;
  const size_t passage = tokens.size() - static_cast<size_t>(next_);
  for (size_t i = 0; i < draft.size(); ++i) {
    draft[i] = i < passage ? tokens[static_cast<size_t>(next_) + i] : draft[i - passage];
  }
  return true;
}

}  // namespace dunlin::worker
