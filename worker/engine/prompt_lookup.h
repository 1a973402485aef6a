// Guesses how a sequence goes on from what it has said before: its last two or three tokens are looked up where they
// stood last, and whatever followed there is the draft. While the guess is right it follows that earlier passage; no
// second model, no device. Every token that is drawn judges the guess that stood for it, whether it was drafted or not,
// so how far a draft can be trusted is known without trying.
// Thread-safety: engine thread only.  Owns: an index of 8 to 128 KiB, allocated by the constructor; the tokens stay
// with the caller, who passes the same ones, longer by one each time. Errors: none; a guess may be wrong or missing.
// Cost: O(tokens) once, O(1) per appended token. Source: prompt lookup decoding (A. Saxena, 2023) with an incremental
// index; following a passage as in suffix decoding (arXiv 2411.04975); the odds are ours.
#ifndef DUNLIN_WORKER_ENGINE_PROMPT_LOOKUP_H_
#define DUNLIN_WORKER_ENGINE_PROMPT_LOOKUP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dunlin::worker {

class PromptLookup {
 public:
  // tokens: those known so far. max_tokens: what they will grow to at most.
  PromptLookup(std::span<const int32_t> tokens, int32_t max_tokens);

  // One more token: the last of `tokens`.
  void Append(std::span<const int32_t> tokens);

  // The next tokens as the earlier passage has them, to *draft: all of it, or nothing when there is no such passage. A
  // passage that runs into the end repeats itself.
  bool Draft(std::span<const int32_t> tokens, std::span<int32_t> draft) const;
  // The chance that token i of a draft is drawn, given that those before it were.
  float Chance(int32_t i) const { return odds_[OddsOf(matched_ + i)]; }
  // How many tokens before the guess agree with the earlier passage, as far as it looked; 0 = there is no guess.
  int32_t matched() const { return next_ > 0 ? matched_ : 0; }

 private:
  static constexpr size_t kNumOdds = 4;

  // By the length of the match so far: the longer, the likelier it goes on.
  static size_t OddsOf(int32_t matched) { return matched <= 2 ? 0 : matched <= 4 ? 1 : matched <= 8 ? 2 : 3; }
  // The n-gram before `end` is entered; returns where it ended before, 0 when it is new or was forgotten.
  int32_t Enter(std::span<const int32_t> tokens, int32_t n, std::vector<int32_t>* index) const;
  // Enters what ends with the last token; takes up a passage when there is none to follow.
  void Look(std::span<const int32_t> tokens);

  int shift_;
  std::vector<int32_t> pairs_, triples_;  // by hash: the end of the last occurrence; newer ones replace others
  int32_t next_ = 0;                      // the token guessed is tokens[next_]; 0 = none
  int32_t matched_ = 0;
  std::array<float, kNumOdds> odds_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_PROMPT_LOOKUP_H_
