#include "gateway/text/choice_assembler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dunlin::gateway {
namespace {

void SetBytes(const model::Tokenizer& tokenizer, uint32_t id, std::string* text) {
  const absl::string_view bytes = tokenizer.TokenBytes(static_cast<model::TokenId>(id), /*special_text=*/true);
  text->assign(bytes.data(), bytes.size());
}

bool InVocabulary(const model::Tokenizer& tokenizer, uint32_t id) {
  return id < static_cast<uint32_t>(tokenizer.vocab_size());
}

}  // namespace

void FillTokenRecord(const model::Tokenizer& tokenizer, uint32_t id, const worker::v1::TokenLogprob* logprob,
                     v1::TokenRecord* record) {
  record->set_id(id);
  SetBytes(tokenizer, id, record->mutable_text());
  if (logprob == nullptr) return;
  record->set_logprob(logprob->logprob());
  record->set_rank(logprob->rank());
  const int num_top = std::min(logprob->top_ids_size(), logprob->top_logprobs_size());
  for (int i = 0; i < num_top; ++i) {
    if (!InVocabulary(tokenizer, logprob->top_ids(i))) continue;
    v1::TopToken* top = record->add_top();
    top->set_id(logprob->top_ids(i));
    SetBytes(tokenizer, logprob->top_ids(i), top->mutable_text());
    top->set_logprob(logprob->top_logprobs(i));
  }
}

ChoiceAssembler::ChoiceAssembler(const model::Tokenizer* tokenizer, const ChoiceOptions& options)
    : tokenizer_(tokenizer),
      options_(options),
      stop_token_ids_(options.stop_token_ids.begin(), options.stop_token_ids.end()),
      decoder_(tokenizer, /*skip_special=*/true),
      stops_(options.stop, options.include_stop) {}

void ChoiceAssembler::AppendText(uint32_t id) {
  const bool withheld = !options_.include_stop && num_tokens_ > options_.min_tokens && stop_token_ids_.contains(id);
  if (withheld) return;
  std::string text;
  decoder_.Append(static_cast<model::TokenId>(id), &text);
  // Stop strings end a choice whether or not its text is wanted, but not before min_tokens.
  std::string let_through;
  if (num_tokens_ <= options_.min_tokens) {
    let_through = std::move(text);
  } else if (const std::optional<size_t> stop = stops_.Append(text, &let_through); stop.has_value()) {
    matched_stop_ = stops_.stop(*stop);
  }
  if (options_.text) pending_.mutable_text()->append(let_through);
}

absl::Status ChoiceAssembler::Append(const worker::v1::Tokens& tokens) {
  const bool has_logprobs = tokens.logprobs_size() > 0;
  if (has_logprobs && tokens.logprobs_size() != tokens.ids_size()) {
    return absl::InternalError(
        absl::StrCat("worker sent ", tokens.logprobs_size(), " log-probabilities for ", tokens.ids_size(), " tokens"));
  }
  for (int i = 0; i < tokens.ids_size(); ++i) {
    if (finished_ || matched_stop_.has_value()) break;
    const uint32_t id = tokens.ids(i);
    if (!InVocabulary(*tokenizer_, id)) {
      return absl::InternalError(
          absl::StrCat("worker sent token ", id, " outside the vocabulary of ", tokenizer_->vocab_size()));
    }
    ++num_tokens_;
    ++tokens_since_delta_;
    AppendText(id);
    if (options_.token_ids) pending_.add_token_ids(id);
    if (options_.logprobs) {
      FillTokenRecord(*tokenizer_, id, has_logprobs ? &tokens.logprobs(i) : nullptr, pending_.add_tokens());
    }
  }
  return absl::OkStatus();
}

void ChoiceAssembler::Finish() {
  if (finished_) return;
  finished_ = true;
  if (matched_stop_.has_value()) return;
  std::string text;
  std::string let_through;
  lossy_ = decoder_.Finish(&text);
  if (const std::optional<size_t> stop = stops_.Append(text, &let_through); stop.has_value()) {
    matched_stop_ = stops_.stop(*stop);
  } else {
    stops_.Finish(&let_through);
  }
  if (options_.text) pending_.mutable_text()->append(let_through);
}

bool ChoiceAssembler::TakeDelta(v1::Delta* delta) {
  const bool flush = finished_ || matched_stop_.has_value();
  if (!flush && tokens_since_delta_ < options_.stream_interval_tokens) return false;
  if (pending_.text().empty() && pending_.token_ids().empty() && pending_.tokens().empty()) return false;
  tokens_since_delta_ = 0;
  *delta = std::move(pending_);
  delta->set_index(options_.index);
  pending_.Clear();
  return true;
}

}  // namespace dunlin::gateway
