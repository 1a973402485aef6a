#include "worker/engine/verdict.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace dunlin::worker {

std::optional<Verdict> Judge(Sequence* s, absl::Time now, const EngineOptions& options) {
  const TokenStream& stream = *s->stream;
  const bool slow = stream.unread_bytes() > options.max_unread_bytes;
  if (!stream.cancelled() && now < s->due && !slow) {
    s->paused = false;
    return std::nullopt;
  }
  if (stream.cancelled()) return Verdict{FinishCause::kCancelled, absl::CancelledError("cancelled")};
  if (now >= s->request.deadline) {
    return Verdict{FinishCause::kError, absl::DeadlineExceededError(absl::StrCat(
                                            "the deadline passed after ", s->num_generated(), " generated tokens"))};
  }
  if (now - s->arrival >= s->request.max_time) return Verdict{FinishCause::kMaxTime, absl::OkStatus()};
  if (slow && !s->paused) s->paused_since = now;
  s->paused = slow;
  if (slow && now - s->paused_since >= options.reader_stall_limit) {
    return Verdict{FinishCause::kError, absl::ResourceExhaustedError(absl::StrCat(
                                            "the reader took nothing for ", absl::FormatDuration(now - s->paused_since),
                                            " with ", stream.unread_bytes(),
                                            " bytes unread (limits: ", absl::FormatDuration(options.reader_stall_limit),
                                            ", ", options.max_unread_bytes, " bytes)"))};
  }
  return std::nullopt;
}

bool EndsGeneration(const Sequence& s, int32_t token, const EngineOptions& options) {
  const std::vector<int32_t>& ending = options.end_of_generation;
  return !s.request.ignore_eos && std::binary_search(ending.begin(), ending.end(), token);
}

bool IsStopToken(const Sequence& s, int32_t token) {
  const std::vector<int32_t>& stops = s.request.stop_tokens;
  return std::find(stops.begin(), stops.end(), token) != stops.end();
}

}  // namespace dunlin::worker
