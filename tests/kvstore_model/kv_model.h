// The naive side of the proof: what a KV store must do, in plain maps and loops. Knows of every open sequence its
// tokens and its table, and of every page and host slot the prefix whose KV each of its token slots holds, carried
// along by the PageMoves in order and by the steps' writes. Written from kv_store.h alone; shares no code with the
// store. Thread-safety: none.  Owns: its state. Errors: a check returns "" or what is wrong. Cost: quadratic, for tiny
// pools. Source: ours.
#ifndef DUNLIN_TESTS_KVSTORE_MODEL_KV_MODEL_H_
#define DUNLIN_TESTS_KVSTORE_MODEL_KV_MODEL_H_

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kvstore/kv_types.h"
#include "tests/kvstore_model/prefix_tree.h"

namespace dunlin::testing {

struct ModelSequence {
  int id = 0;
  int cache_namespace = 0;
  bool read = true;   // shares pages of others
  bool write = true;  // is published
  std::vector<int32_t> tokens;
  std::vector<int> path;  // path[i]: the prefix tokens[0, i]
  int computed = 0;       // slots [0, computed) hold what they must; < tokens.size() between steps
  std::vector<int32_t> table;
  // Of the coming step: it writes [computed, target). Tokens beyond the known ones are drafts.
  bool in_step = false;
  int target = 0;
};

class KvModel {
 public:
  KvModel(const kv::KvOptions& options, std::span<const char* const> namespaces);

  // ---- Prefixes ----
  int Root(int cache_namespace) const { return roots_[static_cast<size_t>(cache_namespace)]; }
  // Sets the sequence's tokens and path.
  void SetTokens(ModelSequence* s, std::vector<int32_t> tokens);
  void Append(ModelSequence* s, int32_t token);
  // Whole pages of the path, at most `limit` tokens, that are present; in tokens.
  int LongestPresent(const std::vector<int>& path, int limit) const;
  // How many tokens more than `whole` the path shares with a page that is present, at most `limit` in all.
  int LongestPart(int root, const std::vector<int>& path, int whole, int limit) const;

  // ---- Who holds what ----
  int Pages(int tokens) const { return (tokens + page_tokens - 1) / page_tokens; }
  int TablesNaming(int32_t page) const;
  bool Held(int32_t page) const { return pins.contains(page) || TablesNaming(page) > 0; }
  std::set<int32_t> HeldPages() const;
  int Quarantined() const;  // hold anything and nobody holds them
  // Blank or evictable.
  int Available() const { return num_pages - static_cast<int>(HeldPages().size()) - Quarantined(); }
  // What Reserve must answer for [computed, num_tokens).
  kv::ReserveOutcome ExpectedReserve(const ModelSequence& s, int computed, int num_tokens) const;
  // A page that a write may go to: nobody else's, no transfer's, and not in the index.
  bool Private(int32_t page) const;

  // ---- What happens to memory ----
  // Carries out one move. `spoil`: a restore that fails; its page holds anything then.
  void Apply(const kv::PageMove& move, bool spoil);
  void Write(const ModelSequence& s, int from, int to);
  void Taint(const ModelSequence& s, int from, int to);  // a failed step wrote there
  void Drop(ModelSequence* s, size_t pages);             // the table shrinks to so many pages
  void ForgetIndexed(int node);                          // this prefix and all that continue it

  // ---- Checks ----
  std::string CheckCounts(const kv::KvStats& stats, int available) const;
  std::string CheckTables() const;
  std::string CheckContent() const;  // of all tables; no move may be outstanding
  std::string CheckPresent() const;  // parents are present; what is held in the index is present

  const int page_tokens, num_pages;
  const bool caching;
  PrefixTree tree;
  std::map<int, ModelSequence> open;
  std::map<int32_t, int> pins;
  std::set<int32_t> tainted;
  std::map<int32_t, int> indexed;  // held pages that the index must have -> their prefix
  std::set<int> present;           // prefixes in the cache by the store's events
  std::set<int> published;         // prefixes that were ever offered to it
  std::map<int, int> claims;       // prefix -> the sequence that computes it in this step; -1: it was closed since

 private:
  kv::ReserveOutcome Outcome(int need, int need_without_pins) const;

  std::vector<int> roots_;
  std::vector<std::vector<int>> device_, host_;  // a prefix for every token slot; -1: anything
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_KVSTORE_MODEL_KV_MODEL_H_
