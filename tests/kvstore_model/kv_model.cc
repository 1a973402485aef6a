#include "tests/kvstore_model/kv_model.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace dunlin::testing {
namespace {

size_t Index(int i) { return static_cast<size_t>(i); }

}  // namespace

KvModel::KvModel(const kv::KvOptions& options, std::span<const char* const> namespaces)
    : page_tokens(options.page_tokens),
      num_pages(options.num_pages),
      caching(options.prefix_caching),
      tree(options.page_tokens),
      device_(Index(options.num_pages), std::vector<int>(Index(options.page_tokens), -1)),
      host_(Index(options.host_slots), std::vector<int>(Index(options.page_tokens), -1)) {
  for (const char* name : namespaces) roots_.push_back(tree.AddRoot(name));
}

void KvModel::SetTokens(ModelSequence* s, std::vector<int32_t> tokens) {
  s->tokens.clear();
  s->path.clear();
  for (const int32_t token : tokens) Append(s, token);
}

void KvModel::Append(ModelSequence* s, int32_t token) {
  s->path.push_back(tree.Child(s->path.empty() ? Root(s->cache_namespace) : s->path.back(), token));
  s->tokens.push_back(token);
}

int KvModel::LongestPresent(const std::vector<int>& path, int limit) const {
  int tokens = 0;
  while (tokens + page_tokens <= limit && present.contains(path[Index(tokens + page_tokens - 1)]))
    tokens += page_tokens;
  return tokens;
}

int KvModel::LongestPart(int root, const std::vector<int>& path, int whole, int limit) const {
  const int parent = whole == 0 ? root : path[Index(whole - 1)];
  int best = 0;
  for (const int node : present) {
    if (tree.depth(node) != whole + page_tokens || tree.PageParent(node) != parent) continue;
    int part = 0;
    while (whole + part < limit && part < page_tokens && tree.IsPrefix(path[Index(whole + part)], node)) ++part;
    best = std::max(best, part);
  }
  return best;
}

int KvModel::TablesNaming(int32_t page) const {
  int tables = 0;
  for (const auto& [id, s] : open) tables += static_cast<int>(std::count(s.table.begin(), s.table.end(), page));
  return tables;
}

std::set<int32_t> KvModel::HeldPages() const {
  std::set<int32_t> held;
  for (const auto& [id, s] : open) held.insert(s.table.begin(), s.table.end());
  for (const auto& [page, count] : pins) held.insert(page);
  return held;
}

int KvModel::Quarantined() const {
  return static_cast<int>(std::count_if(tainted.begin(), tainted.end(), [this](int32_t page) { return !Held(page); }));
}

bool KvModel::Private(int32_t page) const {
  return TablesNaming(page) == 1 && !pins.contains(page) && !indexed.contains(page);
}

kv::ReserveOutcome KvModel::ExpectedReserve(const ModelSequence& s, int computed, int num_tokens) const {
  const int size = static_cast<int>(s.table.size());
  const int growth = std::max(0, Pages(num_tokens) - size);
  int need = growth, need_without_pins = growth;
  for (int i = computed / page_tokens; i < std::min(size, Pages(num_tokens)) && computed < num_tokens; ++i) {
    const int32_t page = s.table[Index(i)];
    if (!Private(page)) ++need;
    if (TablesNaming(page) > 1 || indexed.contains(page)) ++need_without_pins;
  }
  return Outcome(need, need_without_pins);
}

kv::ReserveOutcome KvModel::Outcome(int need, int need_without_pins) const {
  if (need <= Available()) return kv::ReserveOutcome::kGranted;
  int pinned_alone = 0;
  for (const auto& [page, count] : pins) pinned_alone += TablesNaming(page) == 0 && !tainted.contains(page) ? 1 : 0;
  return need_without_pins <= Available() + pinned_alone ? kv::ReserveOutcome::kWaitForPins : kv::ReserveOutcome::kFull;
}

void KvModel::Apply(const kv::PageMove& move, bool spoil) {
  const size_t from = Index(move.from), to = Index(move.to);
  switch (move.kind) {
    case kv::PageMove::Kind::kCopy:
      device_.at(to) = device_.at(from);
      break;
    case kv::PageMove::Kind::kSave:
      host_.at(to) = device_.at(from);
      break;
    case kv::PageMove::Kind::kRestore:
      device_.at(to) = host_.at(from);
      if (spoil) std::fill(device_[to].begin(), device_[to].end(), -1);
      break;
  }
}

void KvModel::Write(const ModelSequence& s, int from, int to) {
  for (int i = from; i < to; ++i) {
    device_[Index(s.table[Index(i / page_tokens)])][Index(i % page_tokens)] = s.path[Index(i)];
  }
}

void KvModel::Taint(const ModelSequence& s, int from, int to) {
  for (int i = from / page_tokens; i < Pages(to); ++i) {
    tainted.insert(s.table[Index(i)]);
    std::vector<int>& slots = device_[Index(s.table[Index(i)])];
    std::fill(slots.begin(), slots.end(), -1);
  }
}

void KvModel::Drop(ModelSequence* s, size_t pages) {
  const std::vector<int32_t> before = s->table;
  s->table.resize(std::min(pages, before.size()));
  for (size_t i = pages; i < before.size(); ++i) {
    if (!Held(before[i])) indexed.erase(before[i]);
  }
}

void KvModel::ForgetIndexed(int node) {
  std::erase_if(indexed, [&](const auto& entry) { return tree.IsPrefix(node, entry.second); });
}

std::string KvModel::CheckCounts(const kv::KvStats& stats, int available) const {
  const int held = static_cast<int>(HeldPages().size());
  const auto differs = [](absl::string_view what, int64_t store, int64_t model) {
    return absl::StrCat(what, ": the store says ", store, ", the model ", model);
  };
  if (stats.total != num_pages) return differs("total", stats.total, num_pages);
  if (stats.held != held) return differs("held", stats.held, held);
  if (stats.quarantine != Quarantined()) return differs("quarantine", stats.quarantine, Quarantined());
  if (stats.pinned != static_cast<int>(pins.size())) {
    return differs("pinned", stats.pinned, static_cast<int64_t>(pins.size()));
  }
  if (stats.open_sequences != static_cast<int>(open.size())) {
    return differs("open sequences", stats.open_sequences, static_cast<int64_t>(open.size()));
  }
  if (stats.blank + stats.held + stats.cached + stats.quarantine != stats.total) {
    return absl::StrCat("conservation: ", stats.blank, " + ", stats.held, " + ", stats.cached, " + ", stats.quarantine);
  }
  if (available != Available()) return differs("available", available, Available());
  if (stats.host_pages > stats.host_slots) return differs("host pages", stats.host_pages, stats.host_slots);
  if (!caching && stats.cached != 0) return differs("cached", stats.cached, 0);
  return "";
}

std::string KvModel::CheckTables() const {
  for (const auto& [id, s] : open) {
    const std::set<int32_t> distinct(s.table.begin(), s.table.end());
    if (distinct.size() != s.table.size()) {
      return absl::StrCat("sequence ", id, " names a page twice: ", absl::StrJoin(s.table, " "));
    }
    for (const int32_t page : distinct) {
      if (page < 0 || page >= num_pages) return absl::StrCat("sequence ", id, " names page ", page);
    }
    if (static_cast<int>(s.table.size()) < Pages(s.computed)) {
      return absl::StrCat("sequence ", id, " has ", s.computed, " tokens on ", s.table.size(), " pages");
    }
    if (!s.in_step) continue;
    for (int i = s.computed / page_tokens; i < Pages(s.target); ++i) {
      if (!Private(s.table[Index(i)])) {
        return absl::StrCat("the write set of sequence ", id, " has page ", s.table[Index(i)],
                            ", which is not its own");
      }
    }
  }
  return "";
}

std::string KvModel::CheckContent() const {
  for (const auto& [id, s] : open) {
    for (int i = 0; i < s.computed; ++i) {
      const int32_t page = s.table[Index(i / page_tokens)];
      const int found = device_[Index(page)][Index(i % page_tokens)];
      if (found == s.path[Index(i)]) continue;
      return absl::StrCat("content: token ", i, " of sequence ", id, " (", absl::StrJoin(s.tokens, " "),
                          ") is on page ", page, ", which holds ",
                          found < 0 ? "anything" : absl::StrJoin(tree.Tokens(found, tree.depth(found)), " "),
                          found >= 0 && tree.Root(found) != Root(s.cache_namespace) ? " of another namespace" : "");
    }
  }
  return "";
}

std::string KvModel::CheckPresent() const {
  for (const int node : present) {
    const int parent = tree.PageParent(node);
    if (tree.depth(parent) > 0 && !present.contains(parent)) {
      return absl::StrCat("present: a prefix of ", tree.depth(node), " tokens without the page before its last");
    }
  }
  for (const auto& [page, node] : indexed) {
    if (TablesNaming(page) == 0) continue;  // a pin alone does not keep it in the index
    if (!present.contains(node)) return absl::StrCat("present: page ", page, " is held and indexed, but not announced");
  }
  return "";
}

}  // namespace dunlin::testing
