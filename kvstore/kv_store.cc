// Sequences, their steps and their tables. What is cached and what goes: kv_store_cache.cc.
#include "kvstore/kv_store.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/check.h"
#include "kvstore/kv_store_impl.h"
#include "kvstore/snapshot.h"

namespace dunlin::kv {
namespace {

PrefixIndex::Options IndexOptions(const KvOptions& o) {
  PrefixIndex::Options index;
  index.num_nodes = o.num_pages + o.host_slots;
  index.page_tokens = o.page_tokens;
  index.host_slots = o.host_slots > 0;
  index.record_events = o.record_events;
  index.hash_key = o.hash_key;
  index.hash_mask = o.hash_mask;
  return index;
}

}  // namespace

PagedKvStore::PagedKvStore(const KvOptions& options)
    : options_(options),
      page_tokens_(options.page_tokens),
      pool_(options.num_pages, options.eviction, this),
      index_(IndexOptions(options)),
      frequency_(options.num_pages),
      host_(options.host_slots, options.eviction),
      claims_(options.max_sequences, options.page_tokens),
      sequences_(static_cast<size_t>(options.max_sequences)) {
  free_sequences_.reserve(sequences_.size());
  for (int32_t i = options.max_sequences - 1; i >= 0; --i) free_sequences_.push_back(i);
  fresh_.reserve(static_cast<size_t>(options.max_pages_per_sequence));
  path_.reserve(static_cast<size_t>(options.max_pages_per_sequence));
}

const OpenSequence& PagedKvStore::At(SequenceId seq) const {
  const auto index = static_cast<int32_t>(seq);
  CHECK(index >= 0 && index < options_.max_sequences) << "sequence " << index;
  const OpenSequence& s = sequences_[static_cast<size_t>(index)];
  CHECK(s.open) << "sequence " << index << " is closed";
  return s;
}

SequenceId PagedKvStore::OpenSlot() {
  CHECK(!free_sequences_.empty()) << "more than " << options_.max_sequences << " open sequences";
  const int32_t index = free_sequences_.back();
  free_sequences_.pop_back();
  OpenSequence& s = sequences_[static_cast<size_t>(index)];
  s.root = -1;
  s.indexed = s.matched_tokens = 0;
  s.write_first = s.write_last = 0;
  s.write_step = 0;
  s.open = true;
  s.table.Open(options_.max_pages_per_sequence);
  return static_cast<SequenceId>(index);
}

int32_t PagedKvStore::SharablePages(size_t num_tokens) const {
  if (num_tokens == 0) return 0;
  return static_cast<int32_t>(std::min((num_tokens - 1) / static_cast<size_t>(page_tokens_),
                                       static_cast<size_t>(options_.max_pages_per_sequence)));
}

int32_t PagedKvStore::ParentOfPage(const OpenSequence& s, int32_t num_pages) const {
  if (s.root < 0) return -1;
  return num_pages > 0 ? pool_.node(s.table.page(num_pages - 1)) : PrefixIndex::ParentOfRoot(s.root);
}

MatchResult PagedKvStore::Match(absl::string_view ns, std::span<const int32_t> tokens, const MatchOptions& options) {
  CHECK(!tokens.empty());
  MatchResult result{.sequence = OpenSlot()};
  if (!options_.prefix_caching) return result;
  OpenSequence& s = At(result.sequence);
  s.root = index_.OpenRoot(ns);
  if (!options.read) return result;
  ShareResident(&s, tokens);
  if (options.restore) result.restored_tokens = Restore(&s, tokens) * page_tokens_;
  result.matched_tokens = s.table.size() * page_tokens_;
  result.copied_tokens = CopyPartial(&s, tokens);
  result.matched_tokens += result.copied_tokens;
  s.matched_tokens = result.matched_tokens;
  return result;
}

void PagedKvStore::Peek(absl::string_view ns, std::span<const int32_t> tokens, PrefixHint* hint) const {
  const int32_t limit = SharablePages(tokens.size());
  if (hint->node < 0 || !index_.alive(hint->node) || index_.generation(hint->node) != hint->generation ||
      hint->tokens > limit * page_tokens_) {
    *hint = PrefixHint();
    const int32_t root = index_.FindRoot(ns);
    if (root < 0) return;
    hint->node = PrefixIndex::ParentOfRoot(root);
  }
  int32_t page = hint->tokens / page_tokens_;
  for (; page < limit; ++page) {
    const int32_t child = index_.Find(hint->node, TokensOfPage(tokens, page).data());
    if (child < 0) break;
    hint->node = child;
  }
  hint->tokens = page * page_tokens_;
  hint->generation = hint->node >= 0 ? index_.generation(hint->node) : 0;
  hint->node = std::max(hint->node, -1);
}

ReserveOutcome PagedKvStore::Reserve(SequenceId seq, int32_t computed, int32_t num_tokens) {
  OpenSequence& s = At(seq);
  const int32_t had = s.table.size(), needed = PagesFor(num_tokens);
  CHECK(computed >= 0 && computed <= num_tokens && PagesFor(computed) <= had)
      << computed << " of " << num_tokens << " tokens on " << had << " pages";
  CHECK_LE(needed, s.table.capacity());
  const int32_t first = computed / page_tokens_;
  const int32_t last = num_tokens > computed ? needed : first;
  const int32_t old_last = std::min(last, had);
  if (needed == had && last - first == 1 && MayWrite(s.table.page(first))) {
    ExtendWriteSet(&s, first, last);  // the next token of a decoding sequence
    return ReserveOutcome::kGranted;
  }
  auto fresh = static_cast<size_t>(std::max(needed - had, 0));
  int32_t only_pinned = 0;  // pages to replace that could be written but for their pins
  for (int32_t i = first; i < old_last; ++i) {
    const PageId page = s.table.page(i);
    if (MayWrite(page)) continue;
    ++fresh;
    only_pinned += pool_.node(page) < 0 && pool_.ref_count(page) - pool_.pins(page) == 1 ? 1 : 0;
  }
  CHECK(fresh_.empty());
  fresh_.resize(fresh);
  if (pool_.Acquire(fresh_) != ReserveOutcome::kGranted) {
    fresh_.clear();
    const auto without_pins = static_cast<int32_t>(fresh) - only_pinned;
    return without_pins <= pool_.available_without_pins() ? ReserveOutcome::kWaitForPins : ReserveOutcome::kFull;
  }
  // What follows a page that is written again is shared or indexed only if that page was.
  if (last > first && had > needed && !MayWrite(s.table.page(needed))) s.table.Shrink(needed);
  ReplaceUnwritable(&s, first, old_last, computed % page_tokens_ != 0, &fresh);
  for (size_t i = 0; s.table.size() < needed; ++i) s.table.Append(std::move(fresh_[i]));
  fresh_.clear();
  if (last > first) ExtendWriteSet(&s, first, last);
  return ReserveOutcome::kGranted;
}

// From the end, as tables give up their pages. copy_first: the first page keeps what it has before the range.
void PagedKvStore::ReplaceUnwritable(OpenSequence* s, int32_t first, int32_t last, bool copy_first, size_t* num_fresh) {
  for (int32_t i = last - 1; i >= first; --i) {
    const PageId old = s->table.page(i);
    if (MayWrite(old)) continue;
    PageRef page = std::move(fresh_[--*num_fresh]);
    if (i == first && copy_first) {
      moves_.push_back({PageMove::Kind::kCopy, static_cast<int32_t>(old), static_cast<int32_t>(page.page())});
      ++copied_pages_;
      if (pool_.fate(old) == PageState::kQuarantine) pool_.SetFate(page.page(), PageState::kQuarantine);
    }
    s->table.Replace(i, std::move(page));
    s->indexed = std::min(s->indexed, i);
  }
}

void PagedKvStore::ExtendWriteSet(OpenSequence* s, int32_t first, int32_t last) {
  const bool meets = s->writes_in(step_) && first <= s->write_last && last >= s->write_first;
  s->write_first = meets ? std::min(first, s->write_first) : first;
  s->write_last = std::min(meets ? std::max(last, s->write_last) : last, s->table.size());
  s->write_step = step_;
}

void PagedKvStore::Publish(SequenceId seq, std::span<const int32_t> tokens) {
  OpenSequence& s = At(seq);
  CHECK_LE(tokens.size(), static_cast<size_t>(s.table.size()) * static_cast<size_t>(page_tokens_));
  const auto full = static_cast<int32_t>(tokens.size()) / page_tokens_;
  if (s.writes_in(step_)) s.write_first = std::max(s.write_first, std::min(full, s.write_last));
  int32_t parent = ParentOfPage(s, s.indexed);
  for (int32_t i = s.indexed; i < full && parent != -1; ++i) {
    const PageId page = s.table.page(i);
    if (pool_.fate(page) == PageState::kQuarantine) return;
    int32_t node = pool_.node(page);
    if (node >= 0) {  // a fork published it
      CHECK_EQ(index_.parent(node), parent);
    } else {
      const std::span<const int32_t> page_tokens = TokensOfPage(tokens, i);
      node = index_.Find(parent, page_tokens.data());
      if (node >= 0 && index_.page(node) >= 0) {
        ReplaceDuplicate(&s, i, node);
      } else {
        if (node < 0) node = NewNode(parent, page_tokens);
        Attach(node, page);
      }
    }
    s.indexed = i + 1;
    parent = node;
  }
}

void PagedKvStore::ReplaceDuplicate(OpenSequence* s, int32_t index, int32_t node) {
  const PageId duplicate = s->table.page(index), kept = static_cast<PageId>(index_.page(node));
  ++dedup_pages_;
  const auto replace = [&](OpenSequence* in) {
    in->table.Replace(index, pool_.Hold(kept));
    pool_.SetWeight(kept, Weight(node));
  };
  const bool forked = pool_.ref_count(duplicate) - pool_.pins(duplicate) > 1;
  replace(s);
  if (!forked) return;
  for (OpenSequence& other : sequences_) {
    if (other.table.size() > index && other.table.page(index) == duplicate) replace(&other);
  }
}

SequenceId PagedKvStore::Fork(SequenceId seq) {
  const OpenSequence& from = At(seq);
  CHECK(!from.writes_in(step_)) << "sequence " << static_cast<int32_t>(seq) << " is being written";
  const SequenceId id = OpenSlot();
  OpenSequence& to = At(id);
  for (int32_t i = 0; i < from.table.size(); ++i) to.table.Append(from.table.Share(i));
  to.root = from.root;
  if (to.root >= 0) index_.ShareRoot(to.root);
  to.indexed = from.indexed;
  to.matched_tokens = from.matched_tokens;
  return id;
}

void PagedKvStore::Truncate(SequenceId seq, int32_t num_tokens) {
  OpenSequence& s = At(seq);
  CHECK_GE(num_tokens, 0);
  claims_.Drop(static_cast<int32_t>(seq));
  s.table.Shrink(PagesFor(num_tokens));
  s.indexed = std::min(s.indexed, s.table.size());
  s.matched_tokens = std::min(s.matched_tokens, num_tokens);
  s.write_last = std::min(s.write_last, s.table.size());
}

void PagedKvStore::Release(SequenceId seq) {
  OpenSequence& s = At(seq);
  claims_.Drop(static_cast<int32_t>(seq));
  s.table.Clear();
  if (s.root >= 0) index_.CloseRoot(s.root);
  s.root = -1;
  s.open = false;
  free_sequences_.push_back(static_cast<int32_t>(seq));
}

bool PagedKvStore::Claim(SequenceId seq, int32_t computed, std::span<const int32_t> tokens) {
  OpenSequence& s = At(seq);
  CHECK_GE(computed, 0);
  const int32_t page = computed / page_tokens_;
  CHECK_LE(page, s.table.size());
  if (computed % page_tokens_ != 0 || tokens.size() < static_cast<size_t>(computed + page_tokens_)) return true;
  const int32_t parent = ParentOfPage(s, page);
  if (parent == -1) return true;
  const int32_t* page_tokens = TokensOfPage(tokens, page).data();
  return claims_.Claim(static_cast<int32_t>(seq), parent, page_tokens, index_.Hash(parent, page_tokens));
}

int32_t PagedKvStore::Adopt(SequenceId seq, int32_t computed, std::span<const int32_t> tokens) {
  OpenSequence& s = At(seq);
  if (computed % page_tokens_ != 0 || s.table.size() != computed / page_tokens_) return computed;
  if (ParentOfPage(s, s.table.size()) == -1) return computed;
  ShareResident(&s, tokens);
  return s.table.size() * page_tokens_;
}

void PagedKvStore::EndStep() {
  ++step_;
  claims_.Clear();
}

void PagedKvStore::FailStep() {
  for (OpenSequence& s : sequences_) {
    if (!s.writes_in(step_)) continue;
    for (int32_t i = s.write_first; i < s.write_last; ++i) pool_.SetFate(s.table.page(i), PageState::kQuarantine);
  }
  EndStep();
}

void PagedKvStore::TakeMoves(std::vector<PageMove>* moves) {
  moves->insert(moves->end(), moves_.begin(), moves_.end());
  moves_.clear();
}

KvStats PagedKvStore::Stats() const {
  KvStats s = pool_.stats();
  s.host_slots = host_.num_slots();
  s.host_pages = host_.size();
  s.open_sequences = static_cast<int32_t>(sequences_.size() - free_sequences_.size());
  s.dedup_pages = dedup_pages_;
  s.copied_pages = copied_pages_;
  s.host_saves = host_saves_;
  s.host_restores = host_restores_;
  return s;
}

StoreView PagedKvStore::view() const { return {pool_, index_, host_, claims_, sequences_, free_sequences_, step_}; }

std::string PagedKvStore::DebugSnapshot() const {
  std::string out;
  pool_.AppendSnapshot(&out);
  index_.AppendSnapshot(&out);
  host_.AppendSnapshot(&out);
  claims_.AppendSnapshot(&out);
  for (const OpenSequence& s : sequences_) {
    for (const int64_t v : std::initializer_list<int64_t>{s.open, s.root, s.indexed, s.matched_tokens, s.write_first,
                                                          s.write_last, s.writes_in(step_)}) {
      AppendValue(v, &out);
    }
    for (const int32_t page : s.table.ids()) AppendValue(page, &out);
  }
  for (const int32_t f : free_sequences_) AppendValue(f, &out);
  for (const PageMove& m : moves_) {
    AppendValue(m.kind, &out);
    AppendValue(m.from, &out);
    AppendValue(m.to, &out);
  }
  for (const uint64_t v : {frequency_.version(), step_, dedup_pages_, copied_pages_, host_saves_, host_restores_})
    AppendValue(v, &out);
  return out;
}

std::unique_ptr<KvStore> KvStore::Create(const KvOptions& options) {
  CHECK_GE(options.page_tokens, 1);
  CHECK(options.max_sequences >= 1 && options.max_sequences < UINT16_MAX) << options.max_sequences;
  CHECK_GE(options.max_pages_per_sequence, 1);
  CHECK_GE(options.host_slots, 0);
  return std::make_unique<PagedKvStore>(options);
}

}  // namespace dunlin::kv
