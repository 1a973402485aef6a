#include "tests/kvstore_model/kv_world.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dunlin::testing {
namespace {

constexpr const char* kNamespaces[] = {"", "tenant-a", "tenant-b"};

kv::KvOptions ReadOptions(ByteSource* source, uint64_t hash_mask) {
  kv::KvOptions o;
  o.num_pages = source->Chance(60) ? source->Pick(4, 16) : source->Pick(4, 64);
  o.page_tokens = source->Pick(2, 4);
  o.max_sequences = source->Pick(1, 8);
  o.max_pages_per_sequence = std::min(o.num_pages, source->Pick(2, 11));
  o.prefix_caching = !source->Chance(5);
  o.host_slots = source->Chance(50) ? 0 : source->Pick(1, 16);
  if (source->Chance(15)) o.eviction = kv::EvictionPolicy::kLru;
  o.record_events = true;
  o.hash_key = 0x9E3779B97F4A7C15u;
  o.hash_mask = hash_mask;
  return o;
}

}  // namespace

KvWorld::KvWorld(std::span<const uint8_t> bytes, const KvWorldOptions& options)
    : source_(bytes), options_(ReadOptions(&source_, options.hash_mask)), keep_log_(options.log) {
  vocab_ = source_.Pick(1, 4);
  restore_failures_percent_ = source_.Chance(50) ? 0 : source_.Pick(1, 60);
  eager_moves_ = source_.Chance(40);
  eager_events_ = source_.Chance(60);
  model_.emplace(options_, kNamespaces);
  store_ = options.create(options_);
  Log("pages ", options_.num_pages, " x ", options_.page_tokens, " tokens, sequences ", options_.max_sequences, " x ",
      options_.max_pages_per_sequence, " pages, host ", options_.host_slots, ", caching ", options_.prefix_caching);
}

std::string KvWorld::Run() {
  while (!source_.done() && error_.empty()) {
    Count(Seen::kOperations);
    Operation();
    if (error_.empty()) Verify();
  }
  if (error_.empty()) Finish();
  // A store that goes while pins are left CHECK-fails, and what is to be told is the first difference.
  for (const auto& [page, count] : model_->pins) {
    for (int i = 0; i < count; ++i) store_->Unpin(static_cast<kv::PageId>(page));
  }
  return error_;
}

void KvWorld::Operation() {
  const int what = source_.Byte();
  if (what < 45) return Submit();
  if (what < 125) return Plan();
  if (what < 165) return RunStep(/*fail=*/false);
  if (what < 169) return RunStep(/*fail=*/true);
  if (what < 184) {
    // Seldom one that the coming step has already: preempted after it was planned.
    ModelSequence* const s = Any(source_.Chance(10));
    if (s != nullptr) Close(s);
    return;
  }
  if (what < 192) return ForkOne();
  if (what < 200) return TruncateOne();
  if (what < 206) {
    ModelSequence* const s = Any(/*in_step=*/false);
    if (s != nullptr && s->read) AdoptOne(s);
    return;
  }
  if (what < 213) return PinOne();
  if (what < 221) return UnpinOne();
  if (what < 226) return Pressure();
  if (what < 228) return FlushCache();
  if (what < 234) return CarryOutMoves();
  if (what < 239) return TakeEvents();
  if (what < 246) return Peek();
  if (what < 249) return Audit();
  if (what < 253) return Absolve();
  Count(Seen::kClockJump);  // the store has no clock
}

std::vector<int32_t> KvWorld::Prompt(int max_tokens) {
  std::vector<int32_t> tokens;
  if (!remembered_.empty() && source_.Chance(50)) {  // a conversation goes on
    const auto which = static_cast<size_t>(source_.Pick(0, static_cast<int>(remembered_.size()) - 1));
    tokens = remembered_[which];
    const int keep = source_.Chance(60) ? max_tokens : source_.Pick(0, max_tokens);
    if (static_cast<int>(tokens.size()) > keep) tokens.resize(static_cast<size_t>(keep));
  }
  const int more = source_.Pick(tokens.empty() ? 1 : 0, std::max(1, max_tokens / 2));
  for (int i = 0; i < more && static_cast<int>(tokens.size()) < max_tokens; ++i) {
    tokens.push_back(source_.Pick(0, vocab_ - 1));
  }
  return tokens;
}

void KvWorld::Submit() {
  if (static_cast<int>(model_->open.size()) == options_.max_sequences) {
    ModelSequence* const s = Any(/*in_step=*/false);
    if (s != nullptr) Close(s);
    return;
  }
  ModelSequence s;
  s.cache_namespace = source_.Chance(70) ? 0 : source_.Pick(0, 2);
  s.read = !source_.Chance(10);
  s.write = !source_.Chance(10);
  model_->SetTokens(&s, Prompt(options_.max_pages_per_sequence * options_.page_tokens));
  const kv::MatchOptions options{s.read, source_.Chance(70)};
  const kv::KvStats before = store_->Stats();
  const kv::MatchResult result = store_->Match(kNamespaces[s.cache_namespace], s.tokens, options);
  s.id = static_cast<int>(result.sequence);
  s.computed = result.matched_tokens;
  const std::span<const int32_t> table = store_->PageTable(result.sequence);
  s.table.assign(table.begin(), table.end());
  Log("submit ", s.id, " ns ", s.cache_namespace, " read ", s.read, " write ", s.write, " restore ", options.restore,
      ": ", absl::StrJoin(s.tokens, " "), " -> matched ", result.matched_tokens, " (copied ", result.copied_tokens,
      ", restored ", result.restored_tokens, ") pages ", absl::StrJoin(s.table, " "));
  Mix(static_cast<uint64_t>(result.matched_tokens));
  if (!Expect(s.id >= 0 && s.id < options_.max_sequences && !model_->open.contains(s.id), "Match gave sequence ",
              s.id)) {
    return;
  }
  CheckMatch(s, options, result, before);
  const int whole = (result.matched_tokens - result.copied_tokens) / options_.page_tokens;
  for (int k = 0; k < static_cast<int>(s.table.size()); ++k) {
    const int32_t page = s.table[static_cast<size_t>(k)];
    Mix(static_cast<uint64_t>(page));
    if (k < whole) model_->indexed[page] = s.path[static_cast<size_t>((k + 1) * options_.page_tokens - 1)];
  }
  model_->open[s.id] = std::move(s);
  // What does not come back from the host is forgotten before anybody else can match it.
  if (result.restored_tokens > 0) CarryOutMoves();
}

int KvWorld::HeldPrefix(const ModelSequence& s) const {
  const int limit = static_cast<int>(s.tokens.size()) - 1;
  int tokens = 0;
  while (tokens + options_.page_tokens <= limit) {
    const int node = s.path[static_cast<size_t>(tokens + options_.page_tokens - 1)];
    const bool held = std::any_of(model_->indexed.begin(), model_->indexed.end(), [&](const auto& entry) {
      return entry.second == node && model_->TablesNaming(entry.first) > 0;
    });
    if (!held) break;
    tokens += options_.page_tokens;
  }
  return tokens;
}

void KvWorld::CheckMatch(const ModelSequence& s, const kv::MatchOptions& options, const kv::MatchResult& r,
                         const kv::KvStats& before) {
  const int limit = static_cast<int>(s.tokens.size()) - 1;
  const int whole = r.matched_tokens - r.copied_tokens;
  const int P = options_.page_tokens;
  Expect(r.matched_tokens >= 0 && r.matched_tokens <= limit && r.copied_tokens >= 0 && r.copied_tokens < P &&
             whole % P == 0 && r.restored_tokens % P == 0 && r.restored_tokens >= 0 && r.restored_tokens <= whole,
         "Match: matched ", r.matched_tokens, " copied ", r.copied_tokens, " restored ", r.restored_tokens, " of ",
         s.tokens.size());
  Expect(static_cast<int>(s.table.size()) == model_->Pages(r.matched_tokens), "Match: ", s.table.size(), " pages for ",
         r.matched_tokens, " tokens");
  Expect((options_.prefix_caching && options.read) || r.matched_tokens == 0, "Match shares though it must not");
  Expect(options.restore || r.restored_tokens == 0, "Match restores though it must not");
  if (!error_.empty()) return;
  if (r.copied_tokens > 0) {
    const int32_t page = s.table.back();
    Expect(!model_->Held(page) && !model_->tainted.contains(page), "Match: the copied page ", page, " is not fresh");
  }
  for (int k = 0; k < whole / P; ++k) {
    const int32_t page = s.table[static_cast<size_t>(k)];
    const auto known = model_->indexed.find(page);
    const int node = s.path[static_cast<size_t>((k + 1) * P - 1)];
    if (model_->TablesNaming(page) > 0) {
      Expect(known != model_->indexed.end() && known->second == node, "Match: page ", page,
             " is held for something else");
    }
    Expect(!model_->tainted.contains(page), "Match: page ", page, " holds anything");
    Expect(model_->published.contains(node), "Match: page ", page, " was never published");
  }
  const bool shares = options_.prefix_caching && options.read;
  if (shares) Expect(whole >= HeldPrefix(s), "Match: ", whole, " tokens, but ", HeldPrefix(s), " are held and indexed");
  if (shares && eager_events_) {
    const int present = model_->LongestPresent(s.path, limit);
    Expect(whole <= present, "Match: ", whole, " tokens, but only ", present, " are in the cache");
    const bool exact =
        options_.host_slots == 0 || (options.restore && before.blank >= static_cast<int>(s.path.size()) / P);
    if (exact) Expect(whole == present, "Match: ", whole, " tokens of ", present, " in the cache");
    if (options_.host_slots == 0) {
      const int part = model_->LongestPart(model_->Root(s.cache_namespace), s.path, whole, limit);
      // Among many pages after one prefix the store looks at some.
      const bool looks_at_all = std::pow(vocab_, options_.page_tokens) <= 16;
      Expect(r.copied_tokens == part || (r.copied_tokens < part && (before.blank == 0 || !looks_at_all)),
             "Match: ", r.copied_tokens, " tokens copied of ", part, " in common");
    }
  }
  Count(whole > 0 ? Seen::kMatchWhole : Seen::kMatchNothing);
  if (r.copied_tokens > 0) Count(Seen::kMatchPart);
  if (r.restored_tokens > 0) Count(Seen::kHostRestore);
}

ModelSequence* KvWorld::Any(bool in_step) {
  std::vector<ModelSequence*> some;
  for (auto& [id, s] : model_->open) {
    if (s.in_step == in_step) some.push_back(&s);
  }
  if (some.empty()) return nullptr;
  return some[static_cast<size_t>(source_.Pick(0, static_cast<int>(some.size()) - 1))];
}

void KvWorld::Close(ModelSequence* s) {
  Log("close ", s->id, s->in_step ? " (planned)" : "");
  if (s->in_step) Count(Seen::kPreempted);
  LoosenClaims(s->id);
  remembered_.push_back(s->tokens);
  if (remembered_.size() > 6) remembered_.erase(remembered_.begin());
  store_->Release(Id(*s));
  const int before = model_->Quarantined();
  model_->Drop(s, 0);
  model_->open.erase(s->id);
  if (model_->Quarantined() > before) Count(Seen::kQuarantine);
}

// A sequence that was planned does something else: its claims may stand until the end of the step or not.
void KvWorld::LoosenClaims(int id) {
  for (auto& [node, owner] : model_->claims) owner = owner == id ? -1 : owner;
}

void KvWorld::ForkOne() {
  ModelSequence* const s = Any(/*in_step=*/false);
  if (s == nullptr || static_cast<int>(model_->open.size()) == options_.max_sequences) return;
  const kv::SequenceId id = store_->Fork(Id(*s));
  ModelSequence child = *s;
  child.id = static_cast<int>(id);
  Log("fork ", s->id, " -> ", child.id);
  if (!Expect(!model_->open.contains(child.id), "Fork gave sequence ", child.id)) return;
  std::vector<int32_t> tokens = child.tokens;
  tokens.resize(static_cast<size_t>(child.computed));  // the two go different ways
  tokens.push_back(source_.Pick(0, vocab_ - 1));
  model_->SetTokens(&child, tokens);
  model_->open[child.id] = std::move(child);
  Count(Seen::kFork);
}

void KvWorld::TruncateOne() {
  ModelSequence* const s = Any(/*in_step=*/false);
  if (s == nullptr) return;
  TruncateTo(s, source_.Pick(0, s->computed));
  Count(Seen::kTruncate);
}

void KvWorld::TruncateTo(ModelSequence* s, int tokens) {
  Log("truncate ", s->id, " to ", tokens);
  LoosenClaims(s->id);
  store_->Truncate(Id(*s), tokens);
  model_->Drop(s, static_cast<size_t>(model_->Pages(tokens)));
  s->computed = std::min(s->computed, tokens);
  if (s->computed < tokens || source_.Chance(50)) return;
  std::vector<int32_t> other(s->tokens.begin(), s->tokens.begin() + s->computed);
  other.push_back(source_.Pick(0, vocab_ - 1));
  model_->SetTokens(s, other);
}

}  // namespace dunlin::testing
