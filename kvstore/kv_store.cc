#include "kvstore/kv_store.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvstore/page_pool.h"
#include "kvstore/page_table.h"

namespace dunlin::kv {
namespace {

// Pages are private to their sequence: nothing is shared between sequences yet, so Match finds nothing, Publish only
// records how far a sequence has come, and kWaitForPins does not occur.
class PagedKvStore final : public KvStore {
 public:
  explicit PagedKvStore(const KvOptions& options)
      : options_(options), pool_(options.num_pages), slots_(static_cast<size_t>(options.max_sequences)) {
    free_slots_.reserve(slots_.size());
    for (int32_t i = options.max_sequences - 1; i >= 0; --i) free_slots_.push_back(i);
  }

  MatchResult Match(absl::string_view, std::span<const int32_t> tokens, const MatchOptions&) override {
    CHECK(!free_slots_.empty()) << "more than " << options_.max_sequences << " open sequences";
    CHECK(!tokens.empty());
    const int32_t index = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[static_cast<size_t>(index)];
    slot.open = true;
    slot.published_tokens = 0;
    slot.table.Open(options_.max_pages_per_sequence);
    MatchResult result{};
    result.sequence = static_cast<SequenceId>(index);
    return result;
  }

  void Peek(absl::string_view, std::span<const int32_t>, PrefixHint* hint) const override { *hint = PrefixHint(); }

  ReserveOutcome Reserve(SequenceId seq, int32_t computed, int32_t num_tokens) override {
    CHECK_GE(computed, 0);
    CHECK_GE(num_tokens, computed);
    const int32_t pages = num_tokens / options_.page_tokens + (num_tokens % options_.page_tokens != 0 ? 1 : 0);
    return OpenSlot(seq).table.Grow(&pool_, pages) ? ReserveOutcome::kGranted : ReserveOutcome::kFull;
  }

  std::span<const int32_t> PageTable(SequenceId seq) const override { return OpenSlot(seq).table.ids(); }

  void Publish(SequenceId seq, std::span<const int32_t> tokens) override {
    Slot& slot = OpenSlot(seq);
    CHECK_LE(tokens.size(), static_cast<size_t>(slot.table.size()) * static_cast<size_t>(options_.page_tokens));
    CHECK_GE(tokens.size(), static_cast<size_t>(slot.published_tokens));
    slot.published_tokens = static_cast<int32_t>(tokens.size());
  }

  void Release(SequenceId seq) override {
    Slot& slot = OpenSlot(seq);
    slot.table.Clear();
    slot.open = false;
    free_slots_.push_back(static_cast<int32_t>(seq));
  }

  SequenceId Fork(SequenceId) override {
    CHECK(false) << "pages are not shared yet";
    return SequenceId{-1};
  }
  void Truncate(SequenceId seq, int32_t num_tokens) override {
    Slot& slot = OpenSlot(seq);
    slot.table.Shrink(num_tokens / options_.page_tokens + (num_tokens % options_.page_tokens != 0 ? 1 : 0));
    slot.published_tokens = std::min(slot.published_tokens, num_tokens);
  }
  bool Claim(SequenceId seq, int32_t, std::span<const int32_t>) override { return OpenSlot(seq).open; }
  int32_t Adopt(SequenceId, int32_t computed, std::span<const int32_t>) override { return computed; }
  void EndStep() override {}
  void FailStep() override {}
  int32_t Absolve() override { return pool_.Absolve(); }
  void TakeMoves(std::vector<PageMove>*) override {}
  int32_t FailRestore(SequenceId, PageId) override { return 0; }
  void Pin(PageId) override {}
  void Unpin(PageId) override {}
  void TakeEvents(CacheEvents*) override {}
  std::string CheckIdle() const override { return CheckInvariants(); }
  std::string DebugSnapshot() const override { return CheckInvariants(); }

  int32_t Flush() override { return pool_.Flush(); }
  KvStats Stats() const override { return pool_.stats(); }
  int32_t AvailablePages() const override { return pool_.available(); }
  std::string CheckInvariants() const override;

 private:
  struct Slot {
    kv::PageTable table;
    int32_t published_tokens = 0;
    bool open = false;
  };

  Slot& OpenSlot(SequenceId seq) { return const_cast<Slot&>(std::as_const(*this).OpenSlot(seq)); }
  const Slot& OpenSlot(SequenceId seq) const {
    const auto index = static_cast<int32_t>(seq);
    CHECK(index >= 0 && index < options_.max_sequences) << "sequence " << index;
    const Slot& slot = slots_[static_cast<size_t>(index)];
    CHECK(slot.open) << "sequence " << index << " is closed";
    return slot;
  }

  const KvOptions options_;
  PagePool pool_;
  std::vector<Slot> slots_;  // after the pool: their references go first
  std::vector<int32_t> free_slots_;
};

std::string PagedKvStore::CheckInvariants() const {
  if (std::string e = pool_.CheckInvariants(); !e.empty()) return e;
  std::vector<int32_t> refs(static_cast<size_t>(options_.num_pages), 0);
  std::vector<size_t> last_table(refs.size(), slots_.size());
  size_t open = 0;
  for (size_t s = 0; s < slots_.size(); ++s) {
    const Slot& slot = slots_[s];
    open += slot.open ? 1 : 0;
    if (!slot.open && slot.table.size() != 0) {
      return absl::StrCat("closed: sequence ", s, " still has ", slot.table.size(), " pages");
    }
    if (slot.published_tokens > slot.table.size() * options_.page_tokens && slot.open) {
      return absl::StrCat("published: sequence ", s, " has ", slot.published_tokens, " tokens on ", slot.table.size(),
                          " pages");
    }
    for (const int32_t page : slot.table.ids()) {
      if (page < 0 || page >= options_.num_pages) return absl::StrCat("table: sequence ", s, " names page ", page);
      const auto p = static_cast<size_t>(page);
      if (last_table[p] == s) return absl::StrCat("table: sequence ", s, " names page ", page, " twice");
      last_table[p] = s;
      ++refs[p];
    }
  }
  for (size_t p = 0; p < refs.size(); ++p) {
    const int32_t counted = pool_.ref_count(static_cast<PageId>(p));
    if (refs[p] != counted) return absl::StrCat("refs: page ", p, " is in ", refs[p], " tables, counted ", counted);
    if (refs[p] > 1) return absl::StrCat("write sets: page ", p, " is in ", refs[p], " tables");
  }
  if (open + free_slots_.size() != slots_.size()) {
    return absl::StrCat("slots: ", open, " open and ", free_slots_.size(), " free of ", slots_.size());
  }
  return "";
}

}  // namespace

std::unique_ptr<KvStore> KvStore::Create(const KvOptions& options) {
  CHECK_GE(options.page_tokens, 1);
  CHECK_GE(options.max_sequences, 1);
  CHECK_GE(options.max_pages_per_sequence, 1);
  return std::make_unique<PagedKvStore>(options);
}

}  // namespace dunlin::kv
