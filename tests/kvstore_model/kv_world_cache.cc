// Operations on the cache and on transfers, and the comparison after every operation.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/kvstore_model/kv_world.h"

namespace dunlin::testing {
namespace {

constexpr const char* kNamespaces[] = {"", "tenant-a", "tenant-b"};

}  // namespace

void KvWorld::PinOne() {
  ModelSequence* const s = Any(/*in_step=*/false);
  if (s == nullptr || s->table.empty()) return;
  const int32_t page = s->table[static_cast<size_t>(source_.Pick(0, static_cast<int>(s->table.size()) - 1))];
  Log("pin ", page);
  store_->Pin(static_cast<kv::PageId>(page));
  ++model_->pins[page];
  Count(Seen::kPin);
}

void KvWorld::UnpinOne() {
  if (model_->pins.empty()) return;
  auto pin = model_->pins.begin();
  std::advance(pin, source_.Pick(0, static_cast<int>(model_->pins.size()) - 1));
  const int32_t page = pin->first;
  Log("unpin ", page);
  store_->Unpin(static_cast<kv::PageId>(page));
  if (--pin->second == 0) model_->pins.erase(pin);
  if (!model_->Held(page)) model_->indexed.erase(page);
  Count(Seen::kUnpin);
}

// Evicts: somebody who shares nothing takes as many pages as there are, and goes.
void KvWorld::Pressure() {
  if (static_cast<int>(model_->open.size()) == options_.max_sequences || Any(/*in_step=*/true) != nullptr) return;
  ModelSequence s;
  s.write = false;
  const int pages = std::min(options_.max_pages_per_sequence, source_.Pick(1, options_.num_pages));
  std::vector<int32_t> tokens(static_cast<size_t>(pages * options_.page_tokens));
  for (int32_t& t : tokens) t = next_unique_++;
  model_->SetTokens(&s, tokens);
  const kv::MatchResult result = store_->Match(kNamespaces[0], s.tokens, {});
  s.id = static_cast<int>(result.sequence);
  Log("pressure ", s.id, ": ", pages, " pages");
  if (!Expect(result.matched_tokens == 0, "Match found tokens that nobody had")) return;
  ModelSequence& opened = model_->open[s.id] = std::move(s);
  ReservePages(&opened, pages * options_.page_tokens);
  store_->EndStep();
  model_->claims.clear();
  opened.in_step = false;
  Close(&opened);
  remembered_.pop_back();
}

void KvWorld::FlushCache() {
  const kv::KvStats before = store_->Stats();
  const int32_t dropped = store_->Flush();
  const kv::KvStats after = store_->Stats();
  Log("flush: ", dropped);
  Expect(after.cached == 0 && after.host_pages == 0, "Flush left ", after.cached, " and ", after.host_pages);
  Expect(dropped >= before.cached && dropped <= before.cached + before.host_pages, "Flush says ", dropped, " of ",
         before.cached, " and ", before.host_pages);
  Count(Seen::kFlushed, static_cast<uint64_t>(dropped));
}

void KvWorld::Drain() {
  std::vector<kv::PageMove> moves(1, {kv::PageMove::Kind::kCopy, -7, -7});  // what is there stays
  store_->TakeMoves(&moves);
  Expect(moves[0].from == -7 && moves[0].to == -7, "TakeMoves does not append");
  for (size_t i = 1; i < moves.size() && error_.empty(); ++i) {
    const kv::PageMove& m = moves[i];
    const bool save = m.kind == kv::PageMove::Kind::kSave, restore = m.kind == kv::PageMove::Kind::kRestore;
    const int froms = restore ? options_.host_slots : options_.num_pages;
    const int tos = save ? options_.host_slots : options_.num_pages;
    if (!Expect(m.from >= 0 && m.from < froms && m.to >= 0 && m.to < tos, "a move ", m.from, " -> ", m.to)) return;
    const bool spoil = restore && source_.Chance(restore_failures_percent_);
    Log(save ? "  save " : restore ? "  restore " : "  copy ", m.from, " -> ", m.to, spoil ? " fails" : "");
    model_->Apply(m, spoil);
    if (save) Count(Seen::kHostSave);
    if (!save) std::erase(failed_restores_, m.to);
    if (spoil) failed_restores_.push_back(m.to);
  }
}

// What could not be restored is forgotten at once; nothing is outstanding then.
void KvWorld::CarryOutMoves() {
  Drain();
  ForgetRestored();
  const std::string wrong = model_->CheckContent();
  Expect(wrong.empty(), wrong);
}

void KvWorld::ForgetRestored() {
  for (const int32_t page : std::exchange(failed_restores_, {})) {
    if (error_.empty()) ForgetRestoredPage(page);
  }
}

void KvWorld::ForgetRestoredPage(int32_t page) {
  for (auto& [id, s] : model_->open) {
    const auto at = std::find(s.table.begin(), s.table.end(), page);
    if (at == s.table.end()) continue;  // went with one before it
    const int node = model_->indexed.at(page);
    const int keep = static_cast<int>(at - s.table.begin()) * options_.page_tokens;
    const int32_t matched = store_->FailRestore(Id(s), static_cast<kv::PageId>(page));
    Log("restore of page ", page, " failed for ", id, ": matched ", matched);
    Expect(matched == keep, "FailRestore says ", matched, " where ", keep, " tokens are left");
    s.computed = std::min(s.computed, keep);
    model_->Drop(&s, static_cast<size_t>(model_->Pages(keep)));
    model_->ForgetIndexed(node);
    Count(Seen::kFailedRestore);
  }
}

void KvWorld::TakeEvents() {
  kv::CacheEvents events;
  store_->TakeEvents(&events);
  for (const uint64_t hash : events.removed) {
    const int node = model_->tree.Find(hash);
    Expect(node >= 0 && model_->present.erase(node) == 1, "an event removes what is not there");
    // A page that only a pin holds may leave the index.
    std::erase_if(model_->indexed,
                  [&](const auto& e) { return e.second == node && model_->TablesNaming(e.first) == 0; });
  }
  for (const uint64_t hash : events.added) {
    const int node = model_->tree.Find(hash);
    Expect(node >= 0 && model_->published.contains(node), "an event adds what was never published");
    Expect(model_->present.insert(node).second, "an event adds what is there");
  }
  Count(Seen::kEventAdded, events.added.size());
  Count(Seen::kEventRemoved, events.removed.size());
  const std::string wrong = model_->CheckPresent();
  Expect(wrong.empty(), wrong);
}

void KvWorld::Peek() {
  if (hint_tokens_.empty() || source_.Chance(50)) {
    hint_namespace_ = source_.Chance(70) ? 0 : source_.Pick(0, 2);
    hint_tokens_ = Prompt(options_.max_pages_per_sequence * options_.page_tokens);
    hint_ = kv::PrefixHint();
  }
  const std::string before = store_->DebugSnapshot();
  kv::PrefixHint fresh;
  store_->Peek(kNamespaces[hint_namespace_], hint_tokens_, &fresh);
  store_->Peek(kNamespaces[hint_namespace_], hint_tokens_, &hint_);
  Log("peek ns ", hint_namespace_, ": ", absl::StrJoin(hint_tokens_, " "), " -> ", fresh.tokens);
  Expect(store_->DebugSnapshot() == before, "Peek changed something");
  Expect(hint_.tokens == fresh.tokens, "Peek: ", hint_.tokens, " with a hint, ", fresh.tokens, " without");
  if (eager_events_) {
    ModelSequence s;
    s.cache_namespace = hint_namespace_;
    model_->SetTokens(&s, hint_tokens_);
    const int present = model_->LongestPresent(s.path, static_cast<int>(hint_tokens_.size()) - 1);
    Expect(fresh.tokens == present, "Peek: ", fresh.tokens, " tokens of ", present, " in the cache");
  }
  if (fresh.tokens > 0) Count(Seen::kPeekFound);
}

// Everything that was ever published is found exactly when the replayed events say so.
void KvWorld::Audit() {
  TakeEvents();
  std::vector<uint64_t> hashes;
  store_->ListHashes(&hashes);
  const std::set<uint64_t> listed(hashes.begin(), hashes.end());
  if (!Expect(listed.size() == hashes.size() && listed.size() == model_->present.size(), "ListHashes lists ",
              hashes.size(), " and the events say ", model_->present.size())) {
    return;
  }
  for (const int node : model_->published) {
    const int depth = model_->tree.depth(node);
    std::vector<int32_t> tokens = model_->tree.Tokens(node, depth);
    tokens.push_back(0);
    kv::PrefixHint hint;
    int which = 0;
    while (model_->Root(which) != model_->tree.Root(node)) ++which;
    store_->Peek(kNamespaces[which], tokens, &hint);
    if (!Expect((hint.tokens == depth) == model_->present.contains(node), "the index has ", hint.tokens, " of ", depth,
                " tokens and the events say ", model_->present.contains(node))) {
      return;
    }
  }
}

void KvWorld::Absolve() {
  const int expected = model_->Quarantined();
  const int32_t absolved = store_->Absolve();
  Log("absolve: ", absolved);
  Expect(absolved == expected, "Absolve says ", absolved, " of ", expected);
  std::erase_if(model_->tainted, [this](int32_t page) { return !model_->Held(page); });
  Count(Seen::kAbsolved, static_cast<uint64_t>(absolved));
}

void KvWorld::Verify() {
  if (eager_moves_ && error_.empty()) CarryOutMoves();
  if (eager_events_ && error_.empty()) TakeEvents();
  const std::string broken = store_->CheckInvariants();
  if (!Expect(broken.empty(), "CheckInvariants: ", broken)) return;
  for (const auto& [id, s] : model_->open) {
    const std::span<const int32_t> table = store_->PageTable(Id(s));
    if (!Expect(std::equal(table.begin(), table.end(), s.table.begin(), s.table.end()), "the table of sequence ", id,
                " is ", absl::StrJoin(table, " "), " and should be ", absl::StrJoin(s.table, " "))) {
      return;
    }
  }
  const kv::KvStats stats = store_->Stats();
  coverage_[static_cast<size_t>(Seen::kEviction)] = stats.evictions;
  Mix(stats.evictions);
  for (const std::string& wrong : {model_->CheckCounts(stats, store_->AvailablePages()), model_->CheckTables()}) {
    Expect(wrong.empty(), wrong);
  }
}

void KvWorld::Finish() {
  Log("finish");
  RunStep(/*fail=*/false);
  if (error_.empty()) CarryOutMoves();
  if (!error_.empty()) return;
  while (!model_->pins.empty()) UnpinOne();
  while (!model_->open.empty()) Close(&model_->open.begin()->second);
  Absolve();
  if (error_.empty()) Verify();
  if (error_.empty()) Audit();
  const std::string busy = store_->CheckIdle();
  if (!Expect(busy.empty(), "CheckIdle: ", busy)) return;
  FlushCache();
  Drain();
  TakeEvents();
  Expect(model_->present.empty(), "after Flush the events say that ", model_->present.size(), " prefixes are there");
  Expect(store_->Stats().blank == options_.num_pages, "after all, ", store_->Stats().blank, " pages are blank");
  const std::string after = store_->CheckInvariants();
  Expect(after.empty(), "CheckInvariants: ", after);
}

}  // namespace dunlin::testing
