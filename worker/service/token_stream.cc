#include "worker/service/token_stream.h"

#include <utility>

#include "base/check.h"

namespace dunlin::worker {
namespace {

size_t LogprobBytes(const TokenLogprob& l) {
  return sizeof(l) + l.top_ids.size() * sizeof(l.top_ids[0]) + l.top_logprobs.size() * sizeof(l.top_logprobs[0]);
}

}  // namespace

void TokenStream::SetNotify(std::function<void()> notify) { notify_ = std::move(notify); }

void TokenStream::Notify() {
  {
    MutexLock lock(&mu_);
    if (notified_) return;
    notified_ = true;
  }
  if (notify_) notify_();
}

void TokenStream::PushScheduled(uint32_t cached_prompt_tokens) {
  {
    MutexLock lock(&mu_);
    pending_.scheduled = true;
    pending_.cached_prompt_tokens = cached_prompt_tokens;
  }
  Notify();
}

void TokenStream::PushProgress(uint32_t prefill_done_tokens) {
  {
    MutexLock lock(&mu_);
    pending_.prefill_done_tokens = prefill_done_tokens;
  }
  Notify();
}

void TokenStream::PushPromptLogprob(TokenLogprob logprob) {
  {
    MutexLock lock(&mu_);
    CHECK(!ended_);
    unread_bytes_.fetch_add(LogprobBytes(logprob), std::memory_order_relaxed);
    pending_.prompt_logprobs.push_back(std::move(logprob));
  }
  Notify();
}

void TokenStream::PushToken(int32_t token, const TokenLogprob* logprob) {
  {
    MutexLock lock(&mu_);
    CHECK(!ended_);
    size_t bytes = sizeof(token);
    pending_.tokens.push_back(token);
    if (logprob != nullptr) {
      bytes += LogprobBytes(*logprob);
      pending_.logprobs.push_back(*logprob);
    }
    unread_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  }
  Notify();
}

void TokenStream::PushEnd(SequenceEnd end) {
  {
    MutexLock lock(&mu_);
    CHECK(!ended_) << "a stream ends once";
    ended_ = true;
    pending_.end = std::move(end);
  }
  Notify();
}

bool TokenStream::Take(StreamUpdate* update) {
  // Swapped, not moved: the reader's vectors come back with their capacity, so a steady stream allocates nothing.
  update->scheduled = false;
  update->cached_prompt_tokens = 0;
  update->prefill_done_tokens = 0;
  update->prompt_logprobs.clear();
  update->tokens.clear();
  update->logprobs.clear();
  update->end.reset();
  MutexLock lock(&mu_);
  notified_ = false;
  std::swap(*update, pending_);
  unread_bytes_.store(0, std::memory_order_relaxed);
  return !update->empty();
}

}  // namespace dunlin::worker
