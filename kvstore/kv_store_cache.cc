// What of the cache a sequence gets, and what becomes of pages that nobody holds.
#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/check.h"
#include "kvstore/kv_store_impl.h"

namespace dunlin::kv {
namespace {

// Children looked at for one that begins alike; below a popular prefix there may be thousands.
constexpr int kMaxSiblings = 16;

// What a page that was evicted too early is credited with, on top of the uses it left with.
constexpr int kHitsForReturning = 2;

// A page that no request has found again is not worth a transfer to the host.
constexpr int kMinHitsToKeep = 1;

}  // namespace

// The use by the request that made the page counts too: a page that enters with weight 0 would never age the rest.
int PagedKvStore::Weight(int32_t node) const {
  return std::min(index_.hits(node) + 1, EvictionQueue<PagePool>::kMaxWeight);
}

// One more request that found the node; every hit is one of the node's whole path.
PageRef PagedKvStore::HoldHit(int32_t node) {
  const auto page = static_cast<PageId>(index_.page(node));
  PageRef ref = pool_.Hold(page);
  index_.AddHit(node);
  pool_.SetWeight(page, Weight(node));
  return ref;
}

int32_t PagedKvStore::NewNode(int32_t parent, std::span<const int32_t> page_tokens) {
  const int32_t node = index_.Insert(parent, page_tokens);
  if (const int before = frequency_.Count(index_.prefix_hash(node)); before > 0) {
    index_.SetHits(node, before + kHitsForReturning);
  }
  return node;
}

void PagedKvStore::Attach(int32_t node, PageId page) {
  index_.set_page(node, static_cast<int32_t>(page));
  pool_.SetNode(page, node);
  pool_.SetFate(page, PageState::kCached);
  pool_.SetWeight(page, Weight(node));
}

void PagedKvStore::ShareResident(OpenSequence* s, std::span<const int32_t> tokens) {
  int32_t parent = ParentOfPage(*s, s->table.size());
  const int32_t limit = SharablePages(tokens.size());
  for (int32_t i = s->table.size(); i < limit; ++i) {
    const int32_t node = index_.Find(parent, TokensOfPage(tokens, i).data());
    if (node < 0 || index_.page(node) < 0) break;
    // Most nodes have one child, and most matches go on.
    if (const int32_t child = index_.first_child(node); child >= 0) {
      index_.Prefetch(child);
    }
    s->table.Append(HoldHit(node));
    parent = node;
  }
  s->indexed = s->table.size();
}

int32_t PagedKvStore::Restore(OpenSequence* s, std::span<const int32_t> tokens) {
  path_.clear();
  int32_t parent = ParentOfPage(*s, s->table.size());
  const int32_t limit = SharablePages(tokens.size());
  for (int32_t i = s->table.size(); i < limit; ++i) {
    const int32_t node = index_.Find(parent, TokensOfPage(tokens, i).data());
    if (node < 0) break;
    CHECK_LT(index_.page(node), 0) << "node " << node << " is on the device, its parent is not";
    path_.push_back(node);
    parent = node;
  }
  // Making room evicts pages to the host: these records must not be what goes for them.
  for (auto it = path_.rbegin(); it != path_.rend(); ++it) {
    host_.Renew(index_.slot(*it), Weight(*it));
    host_.Guard(index_.slot(*it), step_);
  }
  int32_t restored = 0;
  for (const int32_t node : path_) {
    PageRef page;
    if (pool_.Acquire({&page, 1}) != ReserveOutcome::kGranted) break;
    const int32_t slot = index_.slot(node);
    moves_.push_back({PageMove::Kind::kRestore, slot, static_cast<int32_t>(page.page())});
    host_.MarkRestored(slot, step_);
    index_.AddHit(node);
    Attach(node, page.page());
    s->table.Append(std::move(page));
    ++restored;
  }
  s->indexed = s->table.size();
  host_restores_ += static_cast<uint64_t>(restored);
  return restored;
}

// A page whose bytes are yet to come from the host may fail to come; what is copied from it could not be called back.
bool PagedKvStore::CopySource(int32_t node) const {
  const int32_t slot = index_.slot(node);
  return index_.page(node) >= 0 && (slot < 0 || !host_.restored_in(slot, step_));
}

int32_t PagedKvStore::BestPartial(int32_t parent, std::span<const int32_t> rest, int32_t most, int32_t* common) const {
  // The whole page, of which the last token must be computed.
  if (rest.size() >= static_cast<size_t>(page_tokens_)) {
    const int32_t whole = index_.Find(parent, rest.data());
    *common = most;
    if (whole >= 0 && CopySource(whole)) return whole;
  }
  int32_t best = -1, looked = 0;
  *common = 0;
  for (int32_t c = index_.first_child(parent); c >= 0 && looked < kMaxSiblings; c = index_.next_sibling(c), ++looked) {
    if (!CopySource(c)) continue;
    const std::span<const int32_t> theirs = index_.tokens(c);
    const auto alike =
        static_cast<int32_t>(std::mismatch(rest.begin(), rest.begin() + most, theirs.begin()).first - rest.begin());
    if (alike <= *common) continue;
    *common = alike;
    best = c;
  }
  return best;
}

int32_t PagedKvStore::CopyPartial(OpenSequence* s, std::span<const int32_t> tokens) {
  const int32_t from = s->table.size() * page_tokens_;
  const auto most =
      static_cast<int32_t>(std::min(static_cast<size_t>(page_tokens_), tokens.size() - 1 - static_cast<size_t>(from)));
  if (most == 0 || s->table.size() == s->table.capacity()) return 0;
  int32_t common = 0;
  const int32_t node =
      BestPartial(ParentOfPage(*s, s->table.size()), tokens.subspan(static_cast<size_t>(from)), most, &common);
  if (node < 0) return 0;
  // Held, so that it is not itself what goes to make room.
  const PageRef source = pool_.Hold(static_cast<PageId>(index_.page(node)));
  pool_.SetWeight(source.page(), Weight(node));
  PageRef page;
  if (pool_.Acquire({&page, 1}) != ReserveOutcome::kGranted) return 0;
  index_.AddHit(node);
  pool_.SetWeight(source.page(), Weight(node));
  moves_.push_back({PageMove::Kind::kCopy, static_cast<int32_t>(source.page()), static_cast<int32_t>(page.page())});
  ++copied_pages_;
  s->table.Append(std::move(page));
  return common;
}

// ---- What goes ----

void PagedKvStore::OnEvict(PageId page) {
  const int32_t node = pool_.node(page);
  // Only a pin can have kept a child on the device; without its prefix nobody finds it again.
  for (int32_t c = index_.first_child(node); c >= 0;) {
    const int32_t child = c;
    c = index_.next_sibling(c);
    if (index_.page(child) >= 0) Forget(child);
  }
  frequency_.Remember(index_.prefix_hash(node), Weight(node));
  const bool kept = KeepOnHost(node, page);
  index_.set_page(node, -1);
  pool_.SetNode(page, -1);
  if (!kept) Forget(node);
}

bool PagedKvStore::KeepOnHost(int32_t node, PageId page) {
  if (index_.slot(node) >= 0) {
    host_.Renew(index_.slot(node), Weight(node));
    return true;
  }
  if (index_.hits(node) < kMinHitsToKeep) return false;
  if (host_.FreeSlot() < 0) {
    const int32_t victim = host_.Victim(Weight(node), step_);
    if (victim < 0) return false;
    DropRecord(victim, /*evicted=*/true);
  }
  const int32_t slot = host_.FreeSlot();
  host_.Put(slot, node, Weight(node));
  index_.set_slot(node, slot);
  moves_.push_back({PageMove::Kind::kSave, static_cast<int32_t>(page), slot});
  ++host_saves_;
  return true;
}

void PagedKvStore::DropRecord(int32_t slot, bool evicted) {
  const int32_t node = host_.node(slot);
  host_.Drop(slot, evicted);
  index_.set_slot(node, -1);
  if (index_.page(node) < 0) index_.Remove(node);  // a leaf: its children were weaker
}

void PagedKvStore::Forget(int32_t node) {
  int32_t at = node;
  while (true) {
    while (index_.first_child(at) >= 0) at = index_.first_child(at);
    const int32_t parent = index_.parent(at);
    RemoveLeaf(at);
    if (at == node) return;
    at = parent;
  }
}

void PagedKvStore::RemoveLeaf(int32_t node) {
  if (const int32_t page = index_.page(node); page >= 0) {
    const auto id = static_cast<PageId>(page);
    index_.set_page(node, -1);
    pool_.SetNode(id, -1);
    if (pool_.state(id) == PageState::kCached) {
      pool_.Discard(id);
    } else {
      pool_.SetFate(id, PageState::kBlank);
    }
  }
  if (const int32_t slot = index_.slot(node); slot >= 0) {
    host_.Drop(slot, /*evicted=*/false);
    index_.set_slot(node, -1);
  }
  index_.Remove(node);
}

int32_t PagedKvStore::FailRestore(SequenceId seq, PageId page) {
  OpenSequence& s = At(seq);
  const std::span<const int32_t> ids = s.table.ids();
  const auto at = static_cast<int32_t>(std::find(ids.begin(), ids.end(), static_cast<int32_t>(page)) - ids.begin());
  if (at < s.table.size()) Truncate(seq, at * page_tokens_);
  if (const int32_t node = pool_.node(page); node >= 0) Forget(node);
  return s.matched_tokens;
}

void PagedKvStore::Distrust(SequenceId seq, int32_t from, int32_t to) {
  const OpenSequence& s = At(seq);
  CHECK(from >= 0 && to <= s.table.size() * page_tokens_) << from << " to " << to << " on " << s.table.size();
  for (int32_t i = from / page_tokens_; i < PagesFor(to); ++i) {
    const PageId page = s.table.page(i);
    if (const int32_t node = pool_.node(page); node >= 0) Forget(node);
    pool_.SetFate(page, PageState::kQuarantine);
  }
}

void PagedKvStore::Pin(PageId page) {
  pool_.Pin(page);
  if (const int32_t node = pool_.node(page); node >= 0) pool_.SetWeight(page, Weight(node));
}

void PagedKvStore::Unpin(PageId page) {
  pool_.Unpin(page);
  if (pool_.state(page) != PageState::kCached) return;
  // Its ancestors may have been given up long before: they follow it into the queue again.
  for (int32_t a = index_.parent(pool_.node(page)); a >= 0; a = index_.parent(a)) {
    const auto ancestor = static_cast<PageId>(index_.page(a));
    if (pool_.state(ancestor) == PageState::kCached) pool_.Requeue(ancestor, Weight(a));
  }
}

int32_t PagedKvStore::Flush() {
  while (host_.Weakest() >= 0) DropRecord(host_.Weakest(), /*evicted=*/false);
  const int32_t cached = pool_.stats().cached;
  while (static_cast<int32_t>(pool_.Weakest()) >= 0) Forget(pool_.node(pool_.Weakest()));
  return cached;
}

}  // namespace dunlin::kv
