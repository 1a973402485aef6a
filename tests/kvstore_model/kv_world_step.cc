// The operations of a step: plan (adopt, claim, reserve), run (moves, writes, publish), fail.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/kvstore_model/kv_world.h"

namespace dunlin::testing {
namespace {

const char* Name(kv::ReserveOutcome outcome) {
  switch (outcome) {
    case kv::ReserveOutcome::kGranted:
      return "granted";
    case kv::ReserveOutcome::kWaitForPins:
      return "wait for pins";
    case kv::ReserveOutcome::kFull:
      return "full";
  }
  return "?";
}

}  // namespace

void KvWorld::AdoptOne(ModelSequence* s) {
  const int before = s->computed, P = options_.page_tokens;
  // What is adopted follows pages that the index knows.
  const bool possible = options_.prefix_caching && before % P == 0 && static_cast<int>(s->table.size()) == before / P &&
                        (before == 0 || model_->indexed.contains(s->table.back()));
  const int computed = store_->Adopt(Id(*s), before, s->tokens);
  Log("adopt ", s->id, ": ", before, " -> ", computed);
  Mix(static_cast<uint64_t>(computed));
  const int limit = static_cast<int>(s->tokens.size()) - 1;
  if (!Expect(computed >= before && (computed == before || (possible && computed % P == 0 && computed <= limit)),
              "Adopt: ", before, " -> ", computed, " of ", s->tokens.size())) {
    return;
  }
  const std::span<const int32_t> table = store_->PageTable(Id(*s));
  if (!Expect(table.size() == s->table.size() + static_cast<size_t>((computed - before) / P), "Adopt: ", table.size(),
              " pages for ", computed, " tokens")) {
    return;
  }
  s->table.assign(table.begin(), table.end());
  for (int k = before / P; k < computed / P; ++k) {
    const int node = s->path[static_cast<size_t>((k + 1) * P - 1)];
    Expect(model_->published.contains(node), "Adopt: token ", k * P, " was never published");
    model_->indexed[s->table[static_cast<size_t>(k)]] = node;
  }
  if (possible) Expect(computed >= std::min(limit / P * P, HeldPrefix(*s)), "Adopt: ", HeldPrefix(*s), " are held");
  if (possible && eager_events_ && options_.host_slots == 0) {
    const int present = std::max(before, model_->LongestPresent(s->path, limit));
    Expect(computed == present, "Adopt: ", computed, " tokens of ", present, " in the cache");
  }
  s->computed = computed;
  if (computed > before) Count(Seen::kAdopted);
}

void KvWorld::Plan() {
  ModelSequence* const s = Any(/*in_step=*/false);
  if (s == nullptr) return;
  if (s->read && source_.Chance(50)) AdoptOne(s);
  const int known = static_cast<int>(s->tokens.size());
  int target = source_.Chance(50) ? known : source_.Pick(s->computed + 1, known);
  if (target == known && source_.Chance(25)) {
    target = std::min(target + source_.Pick(1, 4), options_.max_pages_per_sequence * options_.page_tokens);
  }
  if (!error_.empty() || (s->read && s->write && !source_.Chance(5) && !ClaimPages(s, std::min(target, known)))) return;
  if (ReservePages(s, target) == kv::ReserveOutcome::kFull && source_.Chance(40)) {
    ModelSequence* const victim = Any(/*in_step=*/false);
    if (victim != nullptr) Close(victim);
  }
}

bool KvWorld::ClaimPages(ModelSequence* s, int target) {
  const int P = options_.page_tokens;
  const std::string before = store_->DebugSnapshot();
  const std::span<const int32_t> tokens(s->tokens.data(), static_cast<size_t>(target));
  const bool granted = store_->Claim(Id(*s), s->computed, tokens);
  Log("claim ", s->id, " [", s->computed, ", ", target, "): ", granted);
  Mix(granted ? 1 : 2);
  // Only what comes after pages that the index knows can be claimed.
  const int page = s->computed / P;
  const bool looks = options_.prefix_caching && s->computed % P == 0 && s->computed + P <= target &&
                     (page == 0 || model_->indexed.contains(s->table[static_cast<size_t>(page - 1)]));
  const auto claim =
      looks ? model_->claims.find(s->path[static_cast<size_t>(s->computed + P - 1)]) : model_->claims.end();
  const bool taken = claim != model_->claims.end() && claim->second != s->id;
  if (!taken || claim->second != -1) {
    Expect(granted != taken, "Claim of sequence ", s->id, " from ", s->computed, granted ? " granted" : " refused");
  }
  LoosenClaims(s->id);  // what it claimed earlier in this step
  if (!granted) {
    Expect(store_->DebugSnapshot() == before, "a refused Claim left something");
    Count(Seen::kClaimRefused);
    return false;
  }
  if (looks) model_->claims.try_emplace(s->path[static_cast<size_t>(s->computed + P - 1)], s->id);
  // Whether the pages that follow are claimed as well is the store's own affair.
  for (int end = s->computed + 2 * P; looks && end <= target; end += P) {
    model_->claims.try_emplace(s->path[static_cast<size_t>(end - 1)], -1);
  }
  return true;
}

kv::ReserveOutcome KvWorld::ReservePages(ModelSequence* s, int target) {
  const kv::ReserveOutcome expected = model_->ExpectedReserve(*s, s->computed, target);
  const std::string before = store_->DebugSnapshot();
  const kv::ReserveOutcome outcome = store_->Reserve(Id(*s), s->computed, target);
  Log("reserve ", s->id, " [", s->computed, ", ", target, "): ", Name(outcome), ", pages ",
      absl::StrJoin(store_->PageTable(Id(*s)), " "));
  Mix(static_cast<uint64_t>(outcome));
  Expect(outcome == expected, "Reserve of sequence ", s->id, " [", s->computed, ", ", target, ") says ", Name(outcome),
         " where the count says ", Name(expected));
  if (outcome == kv::ReserveOutcome::kGranted) {
    Count(Seen::kGranted);
    TakeGranted(s, target);
    return outcome;
  }
  Count(outcome == kv::ReserveOutcome::kFull ? Seen::kFull : Seen::kWaitForPins);
  Expect(store_->DebugSnapshot() == before, "a refused Reserve left something");
  return outcome;
}

void KvWorld::TakeGranted(ModelSequence* s, int target) {
  const std::span<const int32_t> table = store_->PageTable(Id(*s));
  const size_t size = std::max(s->table.size(), static_cast<size_t>(model_->Pages(target)));
  if (!Expect(table.size() == size, "Reserve: ", table.size(), " pages for ", target, " tokens")) return;
  std::vector<int32_t> replaced;
  for (size_t k = 0; k < size; ++k) {
    const int32_t page = table[k];
    Mix(static_cast<uint64_t>(page));
    const bool old = k < s->table.size();
    const bool written =
        static_cast<int>(k) >= s->computed / options_.page_tokens && static_cast<int>(k) < model_->Pages(target);
    if (old && (!written || model_->Private(s->table[k]))) {
      Expect(page == s->table[k], "Reserve: changed entry ", k, " for no reason");
      continue;
    }
    Expect(!model_->Held(page) && !model_->tainted.contains(page), "Reserve: page ", page, " is not fresh");
    model_->indexed.erase(page);
    if (old) {
      replaced.push_back(s->table[k]);
      Count(Seen::kCopyBeforeWrite);
    }
  }
  s->table.assign(table.begin(), table.end());
  for (const int32_t page : replaced) {
    if (!model_->Held(page)) model_->indexed.erase(page);
  }
  s->in_step = true;
  s->target = target;
}

void KvWorld::RunStep(bool fail) {
  Log(fail ? "failed step" : "step");
  CarryOutMoves();
  if (!fail) WriteMembers();
  const std::string wrong = model_->CheckContent();
  if (!Expect(wrong.empty(), wrong) || !error_.empty()) return;
  if (fail) {
    FailMembers();
  } else {
    for (auto& [id, s] : model_->open) {
      if (s.in_step && s.write && error_.empty()) {
        PublishOne(&s, std::vector<int32_t>(s.tokens.begin(), s.tokens.begin() + s.computed));
      }
    }
    store_->EndStep();
    Count(Seen::kStep);
  }
  model_->claims.clear();
  std::vector<int> members;
  for (auto& [id, s] : model_->open) {
    if (s.in_step) members.push_back(id);
  }
  for (const int id : members) AfterStep(&model_->open.at(id));
}

void KvWorld::WriteMembers() {
  for (auto& [id, s] : model_->open) {
    if (!s.in_step) continue;
    const int known = static_cast<int>(s.tokens.size());
    while (static_cast<int>(s.tokens.size()) < s.target) model_->Append(&s, source_.Pick(0, vocab_ - 1));
    model_->Write(s, s.computed, s.target);
    s.computed = std::min(s.target, source_.Pick(known, s.target));  // of the drafts, some are accepted
  }
}

void KvWorld::PublishOne(ModelSequence* s, const std::vector<int32_t>& tokens) {
  const uint64_t dedup_before = store_->Stats().dedup_pages;
  store_->Publish(Id(*s), tokens);
  if (!options_.prefix_caching) return;
  const std::span<const int32_t> table = store_->PageTable(Id(*s));
  Log("publish ", s->id, " ", tokens.size(), " tokens, pages ", absl::StrJoin(table, " "));
  if (!Expect(table.size() == s->table.size(), "Publish: the table has ", table.size(), " pages")) return;
  const int full = static_cast<int>(tokens.size()) / options_.page_tokens;
  const std::vector<int32_t> old = s->table;
  s->table.assign(table.begin(), table.end());
  uint64_t replaced = 0;
  for (int k = 0; k < static_cast<int>(old.size()); ++k) {
    const int32_t was = old[static_cast<size_t>(k)], is = table[static_cast<size_t>(k)];
    Mix(static_cast<uint64_t>(is));
    if (k >= full) {
      Expect(was == is, "Publish: changed entry ", k, ", which is not full");
      continue;
    }
    const int node = s->path[static_cast<size_t>((k + 1) * options_.page_tokens - 1)];
    for (const auto& [page, held_node] : model_->indexed) {
      Expect(held_node != node || page == is || model_->TablesNaming(page) == 0, "Publish: entry ", k, " is page ", is,
             " and the index has page ", page);
    }
    if (was != is) {
      ++replaced;
      Expect(!model_->tainted.contains(is) && model_->published.contains(node), "Publish: entry ", k, " became page ",
             is);
      if (!model_->Held(was)) model_->indexed.erase(was);
    }
    model_->indexed[is] = node;
    model_->published.insert(node);
  }
  Expect(store_->Stats().dedup_pages == dedup_before + replaced, "dedup_pages counts ", store_->Stats().dedup_pages,
         " after ", replaced, " more than ", dedup_before);
  Count(Seen::kDedup, replaced);
}

void KvWorld::FailMembers() {
  store_->FailStep();
  Count(Seen::kFailedStep);
  std::vector<int> members;
  for (auto& [id, s] : model_->open) {
    if (!s.in_step) continue;
    model_->Taint(s, s.computed, s.target);
    s.in_step = false;
    members.push_back(id);
  }
  for (const int id : members) {  // what was in the step is closed or goes back to what is certainly intact
    ModelSequence& s = model_->open.at(id);
    if (source_.Chance(50)) {
      Close(&s);
    } else {
      const int before = model_->Quarantined();
      TruncateTo(&s, s.computed / options_.page_tokens * options_.page_tokens);
      if (model_->Quarantined() > before) Count(Seen::kQuarantine);
    }
  }
}

void KvWorld::AfterStep(ModelSequence* s) {
  s->in_step = false;
  const int known = static_cast<int>(s->tokens.size());
  if (s->computed < s->target) {
    Count(Seen::kDraftRejected);
    if (known > s->computed) {
      std::vector<int32_t> kept(s->tokens.begin(), s->tokens.begin() + s->computed);
      kept.push_back(source_.Pick(0, vocab_ - 1));
      store_->Truncate(Id(*s), s->computed);
      model_->Drop(s, static_cast<size_t>(model_->Pages(s->computed)));
      model_->SetTokens(s, kept);
      return;
    }
  }
  if (s->computed < known) return;
  if (known == options_.max_pages_per_sequence * options_.page_tokens) return Close(s);
  model_->Append(s, source_.Pick(0, vocab_ - 1));
}

}  // namespace dunlin::testing
