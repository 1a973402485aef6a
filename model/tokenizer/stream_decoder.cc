#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace dunlin::model {

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {
  CHECK(tokenizer != nullptr);
}

void StreamDecoder::Append(TokenId id, std::string* out) {
  absl::string_view bytes = tokenizer_->TokenBytes(id, !skip_special_);
  if (bytes.empty()) return;
  // The dropped space belongs to the text as a whole: tokens that give no text before it do not count as the first.
  if (first_ && tokenizer_->strips_leading_space() && bytes.front() == ' ') bytes.remove_prefix(1);
  first_ = false;
  absl::StrAppend(&pending_, bytes);
  absl::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Sequence sequence = ScanUtf8(rest);
    if (sequence.kind == Utf8Kind::kIncomplete) break;
    if (sequence.kind == Utf8Kind::kValid) {
      absl::StrAppend(out, rest.substr(0, sequence.length));
    } else {
      lossy_ = true;
      absl::StrAppend(out, kReplacementCharacter);
    }
    rest.remove_prefix(sequence.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  CHECK_LE(pending_.size(), 3u);
}

bool StreamDecoder::Finish(std::string* out) {
  if (!pending_.empty()) {
    // What is held back is always the start of one code point, so one replacement stands for it.
    pending_.clear();
    lossy_ = true;
    absl::StrAppend(out, kReplacementCharacter);
  }
  return lossy_;
}

}  // namespace dunlin::model
