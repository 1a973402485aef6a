// What an EngineCore says about itself between steps.
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "worker/engine/engine_core.h"

namespace dunlin::worker {
namespace {

// A paused sequence is looked at this often while nothing else runs: reading the stream does not wake the engine.
constexpr absl::Duration kPausedPoll = absl::Milliseconds(10);

}  // namespace

absl::Time EngineCore::NextWake() const {
  if (!running_.empty()) return clock_->Now() + kPausedPoll;  // all paused; deadlines are seen at the same rate
  CHECK(waiting_.empty()) << "a sequence waits although nothing runs";
  return absl::InfiniteFuture();
}

EngineStats EngineCore::stats() const {
  EngineStats s = stats_;
  const kv::KvStats kv = kv_->Stats();
  s.running = static_cast<int32_t>(running_.size());
  s.waiting = static_cast<int32_t>(waiting_.size());
  s.blank_pages = kv.blank;
  s.held_pages = kv.held;
  s.cached_pages = kv.cached;
  s.quarantine_pages = kv.quarantine;
  s.total_pages = kv.total;
  s.evictions = kv.evictions;
  return s;
}

std::string EngineCore::CheckInvariants() const {
  if (std::string e = kv_->CheckInvariants(); !e.empty()) return absl::StrCat("kv: ", e);
  int32_t promised = 0, held = 0;
  for (const auto& s : running_) {
    if (s == nullptr || !s->kv.has_value()) return "running: a sequence that ended";
    const auto pages = static_cast<int32_t>(kv_->PageTable(*s->kv).size());
    promised += s->worst_case_pages;
    held += pages;
    if (pages > s->worst_case_pages) {
      return absl::StrCat("promise: ", pages, " pages held, ", s->worst_case_pages, " promised");
    }
    if (s->num_computed > static_cast<int32_t>(s->tokens.size()) || s->remaining_tokens() < 1 ||
        static_cast<int32_t>(s->tokens.size()) >= s->limit_tokens + (s->request.max_tokens == 0 ? 1 : 0)) {
      return absl::StrCat("progress: ", s->num_computed, " of ", s->tokens.size(), " tokens, limit ", s->limit_tokens);
    }
  }
  for (const auto& s : waiting_) {
    if (s == nullptr || s->kv.has_value()) return "waiting: a sequence that holds pages";
  }
  const kv::KvStats kv = kv_->Stats();
  if (promised > kv.total) return absl::StrCat("promise: ", promised, " pages promised of ", kv.total);
  if (held != kv.held) return absl::StrCat("held: ", held, " pages in tables, ", kv.held, " held");
  return "";
}

}  // namespace dunlin::worker
