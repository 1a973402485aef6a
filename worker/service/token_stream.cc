#include "worker/service/token_stream.h"

#include <utility>

#include "base/check.h"

namespace dunlin::worker {
namespace {

size_t LogprobBytes(const TokenLogprob& l) {
  return sizeof(float) + sizeof(int32_t) + l.top_ids.size() * (sizeof(int32_t) + sizeof(float));
}

// Empties it and keeps the memory of its vectors.
void Reset(StreamUpdate* update) {
  update->scheduled = false;
  update->cached_prompt_tokens = 0;
  update->prefill_done_tokens = 0;
  update->prompt_logprobs.clear();
  update->tokens.clear();
  update->logprobs.clear();
  update->end.reset();
}

}  // namespace

void TokenStream::SetNotify(std::function<void()> notify) { notify_ = std::move(notify); }

template <typename Change>
void TokenStream::Add(size_t bytes, const Change& change) {
  bool tell = false;
  {
    MutexLock lock(&mu_);
    CHECK(!pending_.end.has_value()) << "something was pushed after the end";
    change(&pending_);
    unread_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    tell = !std::exchange(notified_, true);
  }
  if (tell && notify_) notify_();
}

void TokenStream::PushScheduled(uint32_t cached_prompt_tokens) {
  Add(0, [&](StreamUpdate* u) {
    u->scheduled = true;
    u->cached_prompt_tokens = cached_prompt_tokens;
  });
}

void TokenStream::PushProgress(uint32_t prefill_done_tokens) {
  Add(0, [&](StreamUpdate* u) { u->prefill_done_tokens = prefill_done_tokens; });
}

void TokenStream::PushPromptLogprob(TokenLogprob logprob) {
  Add(LogprobBytes(logprob), [&](StreamUpdate* u) { u->prompt_logprobs.push_back(std::move(logprob)); });
}

void TokenStream::PushToken(int32_t token, const TokenLogprob* logprob) {
  Add(sizeof token + (logprob != nullptr ? LogprobBytes(*logprob) : 0), [&](StreamUpdate* u) {
    u->tokens.push_back(token);
    if (logprob != nullptr) u->logprobs.push_back(*logprob);
  });
}

void TokenStream::PushEnd(SequenceEnd end) {
  Add(0, [&](StreamUpdate* u) { u->end = std::move(end); });
}

bool TokenStream::Take(StreamUpdate* update) {
  Reset(update);
  MutexLock lock(&mu_);
  notified_ = false;
  if (pending_.empty()) return false;
  std::swap(*update, pending_);
  unread_bytes_.store(0, std::memory_order_relaxed);
  return true;
}

}  // namespace dunlin::worker
