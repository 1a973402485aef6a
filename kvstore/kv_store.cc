#include "kvstore/kv_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvstore/page_pool.h"
#include "kvstore/page_table.h"

namespace dunlin::kv {
namespace {

// Page tables over the pool. Nothing is shared between sequences: Match finds nothing and Publish has nobody to tell.
class PrivatePagesStore final : public KvStore {
 public:
  explicit PrivatePagesStore(const KvOptions& options) : options_(options), pool_(options.num_pages) {
    CHECK_GT(options.page_tokens, 0);
    CHECK_GT(options.max_sequences, 0);
    CHECK_GT(options.max_pages_per_sequence, 0);
    sequences_.resize(static_cast<size_t>(options.max_sequences));
    free_sequences_.reserve(sequences_.size());
    for (int32_t i = options.max_sequences - 1; i >= 0; --i) free_sequences_.push_back(i);
  }

  SequenceId Match(absl::string_view /*ns*/, std::span<const int32_t> tokens, bool /*read*/,
                   int32_t* matched_tokens) override {
    CHECK(!tokens.empty());
    CHECK(!free_sequences_.empty()) << "all " << options_.max_sequences << " sequences are open";
    const int32_t id = free_sequences_.back();
    free_sequences_.pop_back();
    Entry& entry = sequences_[static_cast<size_t>(id)];
    entry.open = true;
    entry.table.Reserve(options_.max_pages_per_sequence);
    *matched_tokens = 0;
    return SequenceId{id};
  }

  ReserveOutcome Reserve(SequenceId seq, int32_t num_tokens) override {
    CHECK_GE(num_tokens, 0);
    kv::PageTable& table = Find(seq)->table;
    const int32_t pages = num_tokens / options_.page_tokens + (num_tokens % options_.page_tokens != 0 ? 1 : 0);
    CHECK_LE(pages, options_.max_pages_per_sequence);
    if (pages <= table.size()) return ReserveOutcome::kGranted;
    return pool_.Acquire(pages - table.size(), &table) ? ReserveOutcome::kGranted : ReserveOutcome::kFull;
  }

  std::span<const int32_t> PageTable(SequenceId seq) const override { return Find(seq)->table.ids(); }

  void Publish(SequenceId seq, std::span<const int32_t> tokens) override {
    const int64_t room = int64_t{Find(seq)->table.size()} * options_.page_tokens;
    CHECK_LE(static_cast<int64_t>(tokens.size()), room) << "published more than was reserved";
  }

  void Release(SequenceId seq) override {
    Entry* entry = Find(seq);
    entry->table.Clear();
    entry->open = false;
    free_sequences_.push_back(static_cast<int32_t>(seq));
  }

  int32_t Flush() override { return pool_.DropCached(); }

  KvStats Stats() const override {
    KvStats s;
    s.blank = pool_.count(PageState::kBlank);
    s.held = pool_.count(PageState::kHeld);
    s.cached = pool_.count(PageState::kCached);
    s.quarantine = pool_.count(PageState::kQuarantine);
    s.total = pool_.num_pages();
    s.evictions = pool_.evictions();
    return s;
  }

  int32_t AvailablePages() const override { return pool_.available(); }

  std::string CheckInvariants() const override {
    if (std::string why = pool_.CheckInvariants(); !why.empty()) return why;
    std::vector<int32_t> references(static_cast<size_t>(pool_.num_pages()), 0);
    int32_t open = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const Entry& entry = sequences_[s];
      open += entry.open ? 1 : 0;
      if (!entry.open && entry.table.size() != 0) {
        return absl::StrCat("page tables: closed sequence ", s, " holds ", entry.table.size(), " pages");
      }
      for (int32_t i = 0; i < entry.table.size(); ++i) {
        const auto page = static_cast<size_t>(entry.table.ref(i).page());
        if (entry.table.ids()[static_cast<size_t>(i)] != static_cast<int32_t>(page)) {
          return absl::StrCat("page tables: sequence ", s, " entry ", i, " differs from its reference");
        }
        ++references[page];
      }
    }
    for (size_t p = 0; p < references.size(); ++p) {
      const int32_t counted = pool_.references(PageId{static_cast<int32_t>(p)});
      if (references[p] != counted) {
        return absl::StrCat("references: page ", p, " counts ", counted, ", tables name it ", references[p], " times");
      }
      // Nothing is shared, so a page named twice would have two writers.
      if (references[p] > 1) return absl::StrCat("one writer: page ", p, " is in ", references[p], " table entries");
    }
    if (open + static_cast<int32_t>(free_sequences_.size()) != options_.max_sequences) {
      return absl::StrCat("sequences: ", open, " open and ", free_sequences_.size(), " free of ",
                          options_.max_sequences);
    }
    return "";
  }

  std::string DebugSnapshot() const override {
    std::string out = pool_.DebugSnapshot();
    for (const Entry& entry : sequences_) {
      absl::StrAppend(&out, entry.open ? "\n+" : "\n-");
      for (const int32_t id : entry.table.ids()) absl::StrAppend(&out, id, " ");
    }
    absl::StrAppend(&out, "\nfree");
    for (const int32_t id : free_sequences_) absl::StrAppend(&out, " ", id);
    return out;
  }

 private:
  struct Entry {
    kv::PageTable table;
    bool open = false;
  };

  const Entry* Find(SequenceId seq) const {
    const auto i = static_cast<int32_t>(seq);
    CHECK(i >= 0 && i < options_.max_sequences) << "sequence " << i;
    const Entry* entry = &sequences_[static_cast<size_t>(i)];
    CHECK(entry->open) << "sequence " << i << " is not open";
    return entry;
  }
  Entry* Find(SequenceId seq) { return const_cast<Entry*>(std::as_const(*this).Find(seq)); }

  const KvOptions options_;
  PagePool pool_;  // before the tables: their references go back into it
  std::vector<Entry> sequences_;
  std::vector<int32_t> free_sequences_;
};

}  // namespace

std::unique_ptr<KvStore> KvStore::Create(const KvOptions& options) {
  return std::make_unique<PrivatePagesStore>(options);
}

}  // namespace dunlin::kv
