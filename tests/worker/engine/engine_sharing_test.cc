// What sequences share: cached prefixes, pages computed once for several in one batch, pages from the host tier; and
// what the observer hears of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/prefix_hash.h"
#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using worker::EngineOptions;
using worker::EngineStats;
using worker::FakeRunnerOptions;
using worker::HostRestore;
using worker::NewSequence;

// Counts the rows that were computed.
struct Rows {
  int prefill = 0, decode = 0;
};

FakeRunnerOptions Counting(Rows* rows, int32_t num_pages = 200) {
  FakeRunnerOptions o;
  o.page_tokens = 4;
  o.num_pages = num_pages;
  o.max_model_len = 256;
  o.max_rows = 64;
  o.before_step = [rows](const worker::StepBatch& batch) {
    rows->prefill += batch.num_prefill_rows;
    rows->decode += batch.num_rows() - batch.num_prefill_rows;
    return absl::OkStatus();
  };
  return o;
}

std::vector<int32_t> Joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(EngineSharing, AHitComputesOnlyWhatIsNewAndGivesTheSameText) {
  Rows rows;
  CoreHarness h(Counting(&rows));
  const std::vector<int32_t> shared = Prompt(100, 1);
  h.Submit(Greedy(Joined(shared, Prompt(7, 2)), 10));
  h.RunToEnd();
  EXPECT_EQ(rows.prefill, 107);
  rows = {};
  auto second = h.Submit(Greedy(Joined(shared, Prompt(9, 3)), 10));
  h.RunToEnd();
  EXPECT_EQ(second->tokens, h.runner.Greedy(Joined(shared, Prompt(9, 3)), 10));
  EXPECT_EQ(second->end->cached_prompt_tokens, 100u);
  EXPECT_EQ(rows.prefill, 9);
  const EngineStats s = h.core->stats();
  EXPECT_EQ(s.prefix_query_tokens, 107u + 109u);
  EXPECT_EQ(s.prefix_hit_tokens, 100u);
}

TEST(EngineSharing, AFullHitComputesOneToken) {
  Rows rows;
  CoreHarness h(Counting(&rows));
  h.Submit(Greedy(Prompt(100, 1), 3));
  h.RunToEnd();
  rows = {};
  auto again = h.Submit(Greedy(Prompt(100, 1), 3));
  h.RunToEnd();
  EXPECT_EQ(rows.prefill, 1);
  EXPECT_EQ(again->end->cached_prompt_tokens, 99u);
  EXPECT_EQ(again->tokens, h.clients[0]->tokens);
}

TEST(EngineSharing, TheNextTurnOfAConversationFindsTheGeneratedTokensToo) {
  Rows rows;
  CoreHarness h(Counting(&rows));
  std::vector<int32_t> conversation = Prompt(30, 1);
  for (int turn = 0; turn < 5; ++turn) {
    auto client = h.Submit(Greedy(conversation, 12));
    h.RunToEnd();
    EXPECT_EQ(client->tokens, h.runner.Greedy(conversation, 12));
    // All but the last token of the last turn is in the pages; the last of those is not full.
    EXPECT_TRUE(turn == 0 || client->end->cached_prompt_tokens >= conversation.size() - 5 - 1 - 3) << turn;
    conversation = Joined(Joined(conversation, client->tokens), Prompt(5, turn + 2));
  }
}

TEST(EngineSharing, TwoEqualPromptsAtOnceAreComputedOnce) {
  for (const int length : {40, 100, 200}) {  // in one chunk and in several
    Rows rows;
    CoreHarness h(Counting(&rows));
    auto one = h.Submit(Greedy(Joined(Prompt(length, 1), {5}), 6));
    auto two = h.Submit(Greedy(Joined(Prompt(length, 1), {6}), 6));
    auto three = h.Submit(Greedy(Joined(Prompt(length, 1), {7}), 6));
    h.RunToEnd();
    EXPECT_EQ(one->tokens, h.runner.Greedy(Joined(Prompt(length, 1), {5}), 6));
    EXPECT_EQ(two->tokens, h.runner.Greedy(Joined(Prompt(length, 1), {6}), 6));
    EXPECT_EQ(three->tokens, h.runner.Greedy(Joined(Prompt(length, 1), {7}), 6));
    EXPECT_EQ(rows.prefill, length + 3) << "the shared pages once, and each one's own last token";
    EXPECT_EQ(h.core->stats().prefix_hit_tokens, static_cast<uint64_t>(2 * length));
    EXPECT_EQ(two->end->cached_prompt_tokens, static_cast<uint32_t>(length));
    EXPECT_EQ(h.core->stats().dedup_pages, 0u);
  }
}

TEST(EngineSharing, WhoWaitsForAPageStartsOneStepLaterAtMost) {
  Rows rows;
  CoreHarness h(Counting(&rows));
  h.Submit(Greedy(Prompt(40, 1), 6));
  auto two = h.Submit(Greedy(Prompt(40, 1), 6));
  h.Step();
  EXPECT_FALSE(h.clients[0]->tokens.empty());
  EXPECT_TRUE(two->tokens.empty());
  h.Step();
  EXPECT_FALSE(two->tokens.empty());
}

TEST(EngineSharing, NobodyWaitsForAProducerThatIsCancelledOrPreempted) {
  for (int at = 0; at < 8; ++at) {
    Rows rows;
    CoreHarness h(Counting(&rows));
    auto one = h.Submit(Greedy(Prompt(200, 1), 6));
    auto two = h.Submit(Greedy(Prompt(200, 1), 6));
    for (int i = 0; i < at; ++i) h.Step();
    one->stream->Cancel();
    h.RunToEnd();
    EXPECT_EQ(two->tokens, h.runner.Greedy(Prompt(200, 1), 6)) << at;
    EXPECT_LE(rows.prefill, 204) << "the prompt once, and the second one's last page";
  }
}

TEST(EngineSharing, NamespacesAndRequestsThatDoNotReadShareNothing) {
  Rows rows;
  CoreHarness h(Counting(&rows));
  const auto submit = [&](const std::string& ns, bool read, bool write) {
    NewSequence s = Greedy(Prompt(40, 1), 2);
    s.cache_namespace = ns;
    s.cache_read = read;
    s.cache_write = write;
    auto client = h.Submit(std::move(s));
    h.RunToEnd();
    return client->end->cached_prompt_tokens;
  };
  EXPECT_EQ(submit("a", true, false), 0u);
  EXPECT_EQ(submit("a", true, true), 0u) << "the first one wrote nothing";
  EXPECT_EQ(submit("b", true, true), 0u);
  EXPECT_EQ(submit("a", false, true), 0u);
  EXPECT_EQ(submit("a", true, true), 39u);
  EXPECT_EQ(submit("b", true, true), 39u);
  h.core->Flush();
  EXPECT_EQ(submit("a", true, true), 0u);
}

TEST(EngineSharing, WithoutTheCacheNothingIsShared) {
  Rows rows;
  EngineOptions options;
  options.enable_prefix_caching = false;
  CoreHarness h(Counting(&rows), options);
  h.Submit(Greedy(Prompt(40, 1), 2));
  h.Submit(Greedy(Prompt(40, 1), 2));
  h.RunToEnd();
  auto third = h.Submit(Greedy(Prompt(40, 1), 2));
  h.RunToEnd();
  EXPECT_EQ(third->end->cached_prompt_tokens, 0u);
  EXPECT_EQ(rows.prefill, 120);
  EXPECT_EQ(h.core->stats().cached_pages, 0);
}

TEST(EngineSharing, APromptWhoseTokensAreJudgedComputesThemAll) {
  Rows rows;
  CoreHarness h(Counting(&rows));
  h.Submit(Greedy(Prompt(40, 1), 2));
  h.RunToEnd();
  NewSequence s = Greedy(Prompt(40, 1), 2);
  s.num_prompt_logprobs = 1;
  auto judged = h.Submit(std::move(s));
  h.RunToEnd();
  EXPECT_EQ(judged->prompt_logprobs.size(), 39u);
  EXPECT_EQ(rows.prefill, 80);
}

TEST(EngineSharing, APreemptedSequenceFindsItsOwnPagesAgain) {
  Rows rows;
  FakeRunnerOptions o = Counting(&rows, 58);
  EngineOptions options;
  options.promise = worker::AdmissionPromise::kTokens;
  CoreHarness h(o, options);
  // The first one ends soon and leaves its pages to the preempted one.
  auto first = h.Submit(Greedy(Prompt(100, 1), 20));
  auto second = h.Submit(Greedy(Prompt(100, 2), 60));
  h.RunToEnd();
  EXPECT_EQ(first->tokens, h.runner.Greedy(Prompt(100, 1), 20));
  EXPECT_EQ(second->tokens, h.runner.Greedy(Prompt(100, 2), 60));
  const EngineStats s = h.core->stats();
  EXPECT_GE(s.preemptions, 1u);
  EXPECT_LT(s.recomputed_tokens, 60u) << "most of its pages were cached still";
}

// ---- The host tier ----

TEST(EngineHostTier, WhatWasEvictedComesBackInsteadOfBeingComputed) {
  Rows rows;
  FakeRunnerOptions o = Counting(&rows, 32);
  o.host_slots = 64;
  EngineOptions options;
  options.host_restore = HostRestore::kAlways;
  CoreHarness h(o, options);
  const auto serve = [&](int salt) {
    auto client = h.Submit(Greedy(Prompt(80, salt), 8));
    h.RunToEnd();
    EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(80, salt), 8));
    return client->end->cached_prompt_tokens;
  };
  serve(1);
  serve(1);  // what nobody asks for again is not kept
  serve(2);  // 22 of 32 pages each: pushes the first one out
  EXPECT_GT(h.core->stats().host_tier_pages, 0);
  rows = {};
  EXPECT_GE(serve(1), 76u);
  EXPECT_LE(rows.prefill, 4);
  const EngineStats s = h.core->stats();
  EXPECT_GT(s.host_tier_hit_tokens, 0u);
  EXPECT_EQ(s.host_tier_hit_tokens % 4, 0u);
  EXPECT_GE(s.host_tier_bytes_in, s.host_tier_hit_tokens / 4 * o.page_bytes);
  EXPECT_GT(s.host_tier_bytes_out, 0u);
  EXPECT_EQ(s.host_tier_failures, 0u);
  EXPECT_EQ(s.host_tier_slots, 64);
}

TEST(EngineHostTier, DamagedRecordsAreComputedAgain) {
  // Every record is damaged once, one place after the other.
  for (int32_t damaged = 0; damaged < 24; ++damaged) {
    Rows rows;
    FakeRunnerOptions o = Counting(&rows, 32);
    o.host_slots = 64;
    o.damaged = [damaged](int32_t slot) { return slot == damaged; };
    EngineOptions options;
    options.host_restore = HostRestore::kAlways;
    CoreHarness h(o, options);
    for (const int salt : {1, 1, 2, 2, 1, 2, 1}) {
      auto client = h.Submit(Greedy(Prompt(80, salt), 8));
      h.RunToEnd();
      ASSERT_EQ(client->tokens, h.runner.Greedy(Prompt(80, salt), 8)) << damaged;
    }
    EXPECT_EQ(h.core->CheckIdle(), "");
  }
}

TEST(EngineHostTier, IsNotAskedWhenComputingIsFaster) {
  FakeClock* clock = nullptr;
  for (const bool restoring_is_slow : {true, false}) {
    Rows rows;
    FakeRunnerOptions o = Counting(&rows, 32);
    o.host_slots = 64;
    o.before_step = [&](const worker::StepBatch& batch) {
      clock->Advance(batch.num_rows() * absl::Milliseconds(1));  // a page of four tokens takes 4 ms
      return absl::OkStatus();
    };
    o.before_moves = [&](std::span<const kv::PageMove> moves) {
      const auto restores = std::count_if(moves.begin(), moves.end(),
                                          [](const kv::PageMove& m) { return m.kind == kv::PageMove::Kind::kRestore; });
      clock->Advance(restores * absl::Milliseconds(restoring_is_slow ? 40 : 1));
      return absl::OkStatus();
    };
    CoreHarness h(o);
    clock = &h.clock;
    for (int i = 0; i < 20; ++i) {
      h.Submit(Greedy(Prompt(80, i / 2 % 2), 8));
      h.RunToEnd();
    }
    const uint64_t restored = h.core->stats().host_tier_hit_tokens;
    if (restoring_is_slow) {
      EXPECT_LE(restored, 80u) << "the first one measured it";
    } else {
      EXPECT_GE(restored, 200u);
    }
  }
}

TEST(EngineHostTier, AFailedMoveIsALostDevice) {
  Rows rows;
  FakeRunnerOptions o = Counting(&rows, 32);
  o.host_slots = 64;
  bool lost = false;
  o.before_moves = [&](std::span<const kv::PageMove>) {
    return lost ? absl::InternalError("bus fell off") : absl::OkStatus();
  };
  EngineOptions options;
  options.host_restore = HostRestore::kAlways;
  for (const bool at_match : {true, false}) {
    lost = false;
    CoreHarness h(o, options);
    for (const int salt : {1, 1, at_match ? 2 : 1}) {
      h.Submit(Greedy(Prompt(80, salt), 8));
      h.RunToEnd();
    }
    lost = true;
    auto client = h.Submit(Greedy(Prompt(80, at_match ? 1 : 3), 40));
    h.RunToEnd();
    ASSERT_TRUE(client->end.has_value());
    EXPECT_EQ(client->end->status.code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(h.core->stats().lost_device);
    EXPECT_EQ(h.core->CheckInvariants(), "");
  }
}

// ---- Events ----

// Replays what it hears.
class Listener final : public worker::EngineObserver {
 public:
  void OnStep(int, int, const worker::StepResult&, absl::Duration) override {}
  void OnScheduled(absl::Duration) override {}
  void OnFirstToken(absl::Duration) override {}
  void OnInterTokenLatency(absl::Duration) override {}
  void OnCancelToFree(absl::Duration) override {}
  void OnCacheEvents(std::span<const uint64_t> added, std::span<const uint64_t> removed) override {
    EXPECT_FALSE(added.empty() && removed.empty());
    for (const uint64_t hash : removed) EXPECT_EQ(cached.erase(hash), 1u);
    for (const uint64_t hash : added) EXPECT_TRUE(cached.insert(hash).second);
  }
  // Tokens of the longest prefix of `tokens` that it takes to be cached.
  size_t Known(const std::vector<int32_t>& tokens, size_t page_tokens) const {
    uint64_t hash = RootPrefix("");
    size_t known = 0;
    while (known + page_tokens <= tokens.size()) {
      hash = ExtendPrefix(hash, std::span(tokens).subspan(known, page_tokens));
      if (!cached.contains(hash)) break;
      known += page_tokens;
    }
    return known;
  }

  std::set<uint64_t> cached;
};

TEST(EngineEvents, ReplayedTheyTellWhatIsCached) {
  Rows rows;
  Listener listener;
  EngineOptions options;
  options.record_cache_events = true;
  CoreHarness h(Counting(&rows, 40), options, &listener);
  for (int i = 0; i < 30; ++i) {
    const std::vector<int32_t> prompt = Prompt(20 + i * 3, i % 4);
    const size_t known = listener.Known(prompt, 4);
    auto client = h.Submit(Greedy(prompt, 8));
    h.RunToEnd();
    const size_t cached = client->end->cached_prompt_tokens;
    EXPECT_EQ(std::min(known, (prompt.size() - 1) / 4 * 4), cached / 4 * 4) << i;
  }
  EXPECT_GT(h.core->stats().evictions, 0u);
  EXPECT_FALSE(listener.cached.empty());
  h.core->Flush();
  EXPECT_TRUE(listener.cached.empty());
}

}  // namespace
}  // namespace dunlin::testing
