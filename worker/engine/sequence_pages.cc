#include "worker/engine/sequence_pages.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace dunlin::worker {
namespace {

kv::KvOptions KvOptionsOf(const EngineOptions& options, const RunnerInfo& info, int max_model_len) {
  kv::KvOptions kv;
  kv.num_pages = info.num_pages;
  kv.page_tokens = info.page_tokens;
  kv.max_sequences = options.max_num_seqs;
  kv.max_pages_per_sequence = (max_model_len + info.page_tokens - 1) / info.page_tokens;
  kv.prefix_caching = options.enable_prefix_caching;
  kv.host_slots = options.enable_prefix_caching ? info.host_slots : 0;
  kv.record_events = options.record_cache_events;
  return kv;
}

}  // namespace

SequencePages::SequencePages(const EngineOptions& options, int max_model_len, ModelRunner* runner, const Clock* clock)
    : runner_(runner),
      clock_(clock),
      page_tokens_(runner->info().page_tokens),
      page_bytes_(runner->info().page_bytes),
      kv_(kv::KvStore::Create(KvOptionsOf(options, runner->info(), max_model_len))),
      restore_policy_(options.host_restore, runner->info().page_bytes, page_tokens_,
                      runner->info().host_bandwidth_bytes_per_second) {
  moves_.reserve(static_cast<size_t>(runner->info().num_pages));
  failed_pages_.reserve(static_cast<size_t>(runner->info().num_pages));
}

void SequencePages::Account(Sequence* s) {
  s->num_pages = s->kv.has_value() ? static_cast<int32_t>(TableOf(*s).size()) : 0;
  const int32_t outstanding = s->kv.has_value() ? std::max(0, s->promised_pages - s->num_pages) : 0;
  reserved_ += outstanding - s->outstanding_pages;
  s->outstanding_pages = outstanding;
  s->pages_peak = std::max(s->pages_peak, s->num_pages);
}

int32_t SequencePages::CachedTokens(Sequence* s) const {
  if (!s->may_share()) return 0;
  kv_->Peek(s->request.cache_namespace, s->tokens, &s->hint);
  return s->hint.tokens;
}

absl::StatusOr<bool> SequencePages::Open(Sequence* s, int32_t promised_pages) {
  kv::MatchResult match =
      kv_->Match(s->request.cache_namespace, s->tokens,
                 {.read = s->may_share(), .restore = runner_->info().host_slots > 0 && restore_policy_.restores()});
  s->kv = match.sequence;
  s->num_computed = match.matched_tokens;
  s->promised_pages = promised_pages;
  if (match.restored_tokens > 0) RETURN_IF_ERROR(Restore(s, &match));
  Account(s);
  if (spare() >= 0) return true;
  Close(s);
  return false;
}

// At once and for this sequence alone: what came back damaged is forgotten before anybody else can match it.
absl::Status SequencePages::Restore(Sequence* s, kv::MatchResult* match) {
  const absl::Time begin = clock_->Now();
  RETURN_IF_ERROR(RunMoves());
  if (!device_busy_) restore_policy_.OnRestored(match->restored_tokens / page_tokens_, clock_->Now() - begin);
  for (const int32_t page : failed_pages_) {
    ++host_failures_;
    const std::span<const int32_t> table = TableOf(*s);
    if (std::find(table.begin(), table.end(), page) == table.end()) continue;  // went with one before it
    s->num_computed = kv_->FailRestore(*s->kv, kv::PageId{page});
  }
  // What is lost is the end of the match: first the copied part of a page, then restored pages.
  const int32_t lost = match->matched_tokens - s->num_computed;
  match->restored_tokens -= std::max(0, lost - match->copied_tokens);
  host_hit_tokens_ += static_cast<uint64_t>(match->restored_tokens);
  return absl::OkStatus();
}

void SequencePages::Close(Sequence* s) {
  kv_->Release(*s->kv);
  s->kv.reset();
  s->num_computed = 0;
  Account(s);
}

int32_t SequencePages::Adopt(Sequence* s) {
  if (!s->may_share() || s->num_computed % page_tokens_ != 0) return 0;
  // What is adopted may have been evictable, so it counts as taken. The last token it looks at is never adopted.
  const int32_t end = std::min(s->num_tokens(), s->num_computed + AffordableRows(*s) + 1);
  const int32_t before = s->num_computed;
  s->num_computed = kv_->Adopt(*s->kv, before, std::span(s->tokens).first(static_cast<size_t>(end)));
  if (s->num_computed != before) Account(s);
  return s->num_computed - before;
}

bool SequencePages::Claim(const Sequence& s, int32_t num_rows) {
  if (!s.may_share()) return true;
  return kv_->Claim(*s.kv, s.num_computed, std::span(s.tokens).first(static_cast<size_t>(s.num_computed + num_rows)));
}

int32_t SequencePages::AffordableRows(const Sequence& s) const {
  return (s.num_pages + s.outstanding_pages + std::max(0, spare())) * page_tokens_ - s.num_computed;
}

int32_t SequencePages::PagesBeyond(const Sequence& s, int32_t num_rows) const {
  return std::max(0, PagesFor(s.num_computed + num_rows) - s.num_pages - s.outstanding_pages);
}

kv::ReserveOutcome SequencePages::Grow(Sequence* s, int32_t num_rows) {
  if (const int32_t beyond = PagesBeyond(*s, num_rows); beyond > 0 && beyond > spare()) {
    return kv::ReserveOutcome::kFull;
  }
  const kv::ReserveOutcome outcome = kv_->Reserve(*s->kv, s->num_computed, s->num_computed + num_rows);
  Account(s);
  return outcome;
}

void SequencePages::DropDraft(Sequence* s) {
  kv_->Truncate(*s->kv, s->num_computed);
  Account(s);
}

absl::Status SequencePages::RunMoves() {
  moves_.clear();
  failed_pages_.clear();
  kv_->TakeMoves(&moves_);
  if (moves_.empty()) return absl::OkStatus();
  for (const kv::PageMove& m : moves_) {
    host_saved_pages_ += m.kind == kv::PageMove::Kind::kSave ? 1 : 0;
    host_restored_pages_ += m.kind == kv::PageMove::Kind::kRestore ? 1 : 0;
  }
  return runner_->MovePages(moves_, &failed_pages_);
}

void SequencePages::Publish(Sequence* s) {
  kv_->Publish(*s->kv, std::span(s->tokens).first(static_cast<size_t>(std::min(s->num_computed, s->num_tokens()))));
}

void SequencePages::FillStats(EngineStats* s) const {
  const kv::KvStats kv = kv_->Stats();
  s->blank_pages = kv.blank;
  s->held_pages = kv.held;
  s->cached_pages = kv.cached;
  s->quarantine_pages = kv.quarantine;
  s->total_pages = kv.total;
  s->reserved_pages = reserved_;
  s->pinned_pages = kv.pinned;
  s->evictions = kv.evictions;
  s->dedup_pages = kv.dedup_pages;
  s->copied_pages = kv.copied_pages;
  s->host_tier_pages = kv.host_pages;
  s->host_tier_slots = kv.host_slots;
  s->host_tier_bytes_out = host_saved_pages_ * page_bytes_;
  s->host_tier_bytes_in = host_restored_pages_ * page_bytes_;
  s->host_tier_hit_tokens = host_hit_tokens_;
  s->host_tier_failures = host_failures_;
}

std::string SequencePages::CheckInvariants(std::span<const std::unique_ptr<Sequence>> running) const {
  if (std::string e = kv_->CheckInvariants(); !e.empty()) return absl::StrCat("kv: ", e);
  int64_t outstanding = 0;
  for (const auto& s : running) {
    const auto table = static_cast<int32_t>(TableOf(*s).size());
    if (s->num_pages != table) return absl::StrCat("pages: ", s->num_pages, " counted, ", table, " in the table");
    if (s->outstanding_pages != std::max(0, s->promised_pages - table)) {
      return absl::StrCat("promise: ", s->outstanding_pages, " pages outstanding of ", s->promised_pages, ", has ",
                          table);
    }
    outstanding += s->outstanding_pages;
    if (s->num_computed > table * page_tokens_) {
      return absl::StrCat("pages: ", s->num_computed, " tokens computed on ", table, " pages");
    }
    if (table > PagesFor(s->num_computed + 1) || !s->draft.empty()) {
      return absl::StrCat("draft: ", table, " pages held for ", s->num_computed, " computed tokens and the next");
    }
  }
  if (outstanding != reserved_) return absl::StrCat("promise: ", outstanding, " outstanding, counted ", reserved_);
  const kv::KvStats kv = kv_->Stats();
  if (spare() < 0 && kv.quarantine == 0 && kv.pinned == 0) {
    return absl::StrCat("promise: ", reserved_, " pages promised, ", kv_->AvailablePages(), " available");
  }
  return "";
}

std::string SequencePages::CheckIdle() const {
  if (reserved_ != 0) return absl::StrCat("idle: ", reserved_, " pages promised");
  const kv::KvStats kv = kv_->Stats();
  if (kv.held != 0 || kv.pinned != 0) return absl::StrCat("idle: ", kv.held, " pages held, ", kv.pinned, " pinned");
  return kv_->CheckIdle();
}

}  // namespace dunlin::worker
