// Turns one choice's tokens into deltas: whole code points, stop strings, token ids and TokenRecords, in the intervals
// asked. Thread-safety: one stream, one thread.  Borrows: the tokenizer (must outlive this). Errors: kInternal when a
// worker sends an id outside the vocabulary or log-probabilities that do not match the ids. Cost: O(bytes × stop
// strings) per token.  Source: ours.
#ifndef DUNLIN_GATEWAY_TEXT_CHOICE_ASSEMBLER_H_
#define DUNLIN_GATEWAY_TEXT_CHOICE_ASSEMBLER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "dunlin/v1/inference.pb.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "gateway/text/stop_matcher.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::gateway {

// Fills id, text and, when `logprob` is given, the distribution's figures. The id must be in the vocabulary;
// alternatives outside it are left out.
void FillTokenRecord(const model::Tokenizer& tokenizer, uint32_t id, const worker::v1::TokenLogprob* logprob,
                     v1::TokenRecord* record);

struct ChoiceOptions {
  uint32_t index = 0;
  std::vector<std::string> stop = {};
  std::vector<uint32_t> stop_token_ids = {};  // their own text is withheld unless include_stop
  uint32_t min_tokens = 0;  // the text of this many is not searched for stop strings, stop tokens neither
  bool include_stop = false;
  bool text = true;
  bool token_ids = false;
  bool logprobs = false;
  uint32_t stream_interval_tokens = 1;
};

class ChoiceAssembler {
 public:
  ChoiceAssembler(const model::Tokenizer* tokenizer, const ChoiceOptions& options);

  // Takes tokens in order. Everything after a stop string's last token is ignored.
  absl::Status Append(const worker::v1::Tokens& tokens);
  // No token follows: flushes held-back text (unless a stop string matched).
  void Finish();
  // Moves what is due into *delta (index set). False when nothing is due: fewer tokens than the interval, or all text
  // is held back and nothing else was asked.
  bool TakeDelta(v1::Delta* delta);

  // The matched stop string, once there is one.
  const std::optional<std::string>& matched_stop() const { return matched_stop_; }
  // Tokens taken, those whose text a stop string withholds included.
  uint32_t num_tokens() const { return num_tokens_; }
  // Some bytes were not UTF-8 and became U+FFFD. Valid after Finish.
  bool lossy() const { return lossy_; }

 private:
  void AppendText(uint32_t id);

  const model::Tokenizer* const tokenizer_;
  const ChoiceOptions options_;
  const absl::flat_hash_set<uint32_t> stop_token_ids_;
  model::StreamDecoder decoder_;
  StopMatcher stops_;
  std::optional<std::string> matched_stop_;
  uint32_t num_tokens_ = 0;
  uint32_t tokens_since_delta_ = 0;
  bool finished_ = false;
  bool lossy_ = false;
  v1::Delta pending_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_TEXT_CHOICE_ASSEMBLER_H_
