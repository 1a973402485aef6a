#include "kvstore/kv_store.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace dunlin::kv {
namespace {

std::vector<int32_t> Copy(std::span<const int32_t> s) { return {s.begin(), s.end()}; }

KvOptions Options(int32_t num_pages, int page_tokens = 2) {
  KvOptions o;
  o.num_pages = num_pages;
  o.page_tokens = page_tokens;
  o.max_sequences = 6;
  o.max_pages_per_sequence = num_pages + 2;
  return o;
}

const std::vector<int32_t> kTokens(64, 7);

SequenceId Open(KvStore* kv) {
  const MatchResult match = kv->Match("tenant", kTokens, {});
  EXPECT_EQ(match.matched_tokens, 0);
  return match.sequence;
}

TEST(KvStore, ReserveRoundsUpToWholePagesAndNeverShrinks) {
  auto kv = KvStore::Create(Options(4, 16));
  const SequenceId s = Open(kv.get());
  EXPECT_EQ(kv->Reserve(s, 0, 1), ReserveOutcome::kGranted);
  EXPECT_EQ(kv->PageTable(s).size(), 1u);
  EXPECT_EQ(kv->Reserve(s, 0, 17), ReserveOutcome::kGranted);
  EXPECT_EQ(kv->PageTable(s).size(), 2u);
  EXPECT_EQ(kv->Reserve(s, 0, 16), ReserveOutcome::kGranted);
  EXPECT_EQ(kv->PageTable(s).size(), 2u);
  EXPECT_EQ(kv->Reserve(s, 0, 65), ReserveOutcome::kFull);
  EXPECT_EQ(kv->PageTable(s).size(), 2u);
  EXPECT_EQ(kv->AvailablePages(), 2);
  kv->Release(s);
  EXPECT_EQ(kv->AvailablePages(), 4);
}

TEST(KvStore, AClosedSequenceIsReusedAndStartsEmpty) {
  auto kv = KvStore::Create(Options(4));
  const SequenceId first = Open(kv.get());
  EXPECT_EQ(kv->Reserve(first, 0, 8), ReserveOutcome::kGranted);
  kv->Release(first);
  const SequenceId second = Open(kv.get());
  EXPECT_EQ(first, second);
  EXPECT_TRUE(kv->PageTable(second).empty());
  kv->Release(second);
}

TEST(KvStoreDeathTest, AClosedSequenceMayNotBeUsed) {
  auto kv = KvStore::Create(Options(4));
  const SequenceId s = Open(kv.get());
  kv->Release(s);
  EXPECT_DEATH(kv->Release(s), "closed");
  EXPECT_DEATH(kv->PageTable(s), "closed");
}

TEST(KvStoreDeathTest, MoreTokensThanItsPagesHoldMayNotBePublished) {
  auto kv = KvStore::Create(Options(4));
  const SequenceId s = Open(kv.get());
  EXPECT_EQ(kv->Reserve(s, 0, 2), ReserveOutcome::kGranted);
  EXPECT_DEATH(kv->Publish(s, std::span(kTokens).first(3)), "tokens");
  kv->Release(s);
}

// The façade against a map of page lists and a set of free pages.
void RunModel(int32_t num_pages, int page_tokens, uint64_t seed, int operations) {
  struct Open_ {
    std::vector<int32_t> pages;
    size_t published = 0;
  };
  auto kv = KvStore::Create(Options(num_pages, page_tokens));
  std::mt19937_64 random(seed);
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  std::map<SequenceId, Open_> open;
  std::set<int32_t> blank;
  for (int32_t p = 0; p < num_pages; ++p) blank.insert(p);
  const auto any = [&] { return std::next(open.begin(), static_cast<std::ptrdiff_t>(below(open.size()))); };

  for (int op = 0; op < operations; ++op) {
    const size_t kind = below(10);
    if (kind < 2 && open.size() < 6) {
      ASSERT_TRUE(open.emplace(Open(kv.get()), Open_{}).second) << "an open id was given out again";
    } else if (kind < 7 && !open.empty()) {
      auto& [seq, model] = *any();
      const size_t tokens = below(static_cast<size_t>((num_pages + 2) * page_tokens) + 1);
      const size_t pages = (tokens + static_cast<size_t>(page_tokens) - 1) / static_cast<size_t>(page_tokens);
      const size_t more = pages > model.pages.size() ? pages - model.pages.size() : 0;
      const ReserveOutcome outcome = kv->Reserve(seq, 0, static_cast<int32_t>(tokens));
      ASSERT_EQ(outcome, more <= blank.size() ? ReserveOutcome::kGranted : ReserveOutcome::kFull) << "operation " << op;
      const std::vector<int32_t> table = Copy(kv->PageTable(seq));
      if (outcome == ReserveOutcome::kGranted) {
        ASSERT_EQ(table.size(), model.pages.size() + more);
        for (size_t i = model.pages.size(); i < table.size(); ++i) {
          ASSERT_EQ(blank.erase(table[i]), 1u) << "page " << table[i] << " was not free";
          model.pages.push_back(table[i]);
        }
      }
    } else if (kind < 8 && !open.empty()) {
      auto& [seq, model] = *any();
      const size_t room = model.pages.size() * static_cast<size_t>(page_tokens);
      model.published += below(room - model.published + 1);
      kv->Publish(seq, std::vector<int32_t>(model.published, 3));
    } else if (kind < 9 && !open.empty()) {
      const auto it = any();
      kv->Release(it->first);
      blank.insert(it->second.pages.begin(), it->second.pages.end());
      open.erase(it);
    } else {
      ASSERT_EQ(kv->Flush(), 0);
    }
    ASSERT_EQ(kv->CheckInvariants(), "") << "operation " << op;
    for (const auto& [seq, model] : open) ASSERT_EQ(Copy(kv->PageTable(seq)), model.pages) << "operation " << op;
    ASSERT_EQ(kv->AvailablePages(), static_cast<int32_t>(blank.size())) << "operation " << op;
    ASSERT_EQ(kv->Stats().held, num_pages - static_cast<int32_t>(blank.size())) << "operation " << op;
  }
  for (const auto& [seq, model] : open) kv->Release(seq);
  ASSERT_EQ(kv->Stats().blank, num_pages);
  ASSERT_EQ(kv->CheckInvariants(), "");
}

TEST(KvStoreProperty, BehavesAsItsModelOver120000RandomOperations) {
  for (const int32_t num_pages : {1, 2, 4, 7, 16, 64}) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(::testing::Message() << "pages " << num_pages << ", seed " << seed);
      RunModel(num_pages, seed % 2 == 0 ? 1 : 4, seed, 5000);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace dunlin::kv
