// A step that only decodes must not allocate: counted by this program's own operator new.
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "tests/support/allocation_counter.h"
#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

// With a runner that runs ahead, and one that does not.
class EngineAllocation : public ::testing::TestWithParam<bool> {
 protected:
  static worker::FakeRunnerOptions Of(const worker::FakeRunnerOptions& o) { return GetParam() ? Ahead(o) : o; }
};
INSTANTIATE_TEST_SUITE_P(Runner, EngineAllocation, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "ahead" : "synchronous"; });

TEST_P(EngineAllocation, ASteadyDecodeStepDoesNotAllocate) {
  worker::FakeRunnerOptions o;
  o.max_model_len = 1024;
  o.num_pages = 512;
  o.max_rows = 64;
  CoreHarness h(Of(o));
  constexpr int kSequences = 20;
  for (int i = 0; i < kSequences; ++i) {
    h.Submit(Greedy(Prompt(10 + i, i), 400));
  }
  worker::StreamUpdate update;
  const auto step = [&] {
    ASSERT_TRUE(h.core->Step());
    h.core->DeliverEnds();
    for (auto& c : h.clients) c->stream->Take(&update);
  };
  for (int i = 0; i < 100; ++i) step();
  const uint64_t before = testing::NumAllocations();
  ASSERT_GT(before, 0) << "the counter counts";
  for (int i = 0; i < 200; ++i) step();
  EXPECT_EQ(testing::NumAllocations() - before, 0u) << "in 200 steps of " << kSequences << " sequences";
  EXPECT_EQ(h.core->stats().steps_ahead > 250, GetParam());
}

TEST_P(EngineAllocation, AStepThatVerifiesDraftsDoesNotAllocateEither) {
  worker::FakeRunnerOptions o;
  o.max_model_len = 4096;
  o.num_pages = 2048;
  o.max_rows = 64;
  o.next_token = [](uint64_t hash, int32_t length) { return static_cast<int32_t>(hash % 9 == 0 ? 50 : length % 7); };
  worker::EngineOptions e;
  e.num_speculative_tokens = 5;
  e.drafting = worker::Drafting::kAlways;
  CoreHarness h(Of(o), e);
  for (int i = 0; i < 8; ++i) h.Submit(Greedy(Prompt(10 + i, i), 3000));
  worker::StreamUpdate update;
  const auto step = [&] {
    ASSERT_TRUE(h.core->Step());
    h.core->DeliverEnds();
    for (auto& c : h.clients) c->stream->Take(&update);
  };
  for (int i = 0; i < 100; ++i) step();
  const uint64_t before = testing::NumAllocations(), accepted = h.core->stats().accepted_draft_tokens;
  for (int i = 0; i < 200; ++i) step();
  EXPECT_EQ(testing::NumAllocations() - before, 0u);
  EXPECT_GT(h.core->stats().accepted_draft_tokens, accepted + 100);
}

TEST_P(EngineAllocation, AStepThatSharesOutPromptsDoesNotAllocateEither) {
  worker::FakeRunnerOptions o;
  o.max_model_len = 4096;
  o.num_pages = 2048;
  o.max_rows = 16;
  CoreHarness h(Of(o));
  for (int i = 0; i < 6; ++i) h.Submit(Greedy(Prompt(3000, i), 4));
  worker::StreamUpdate update;
  const auto step = [&] {
    ASSERT_TRUE(h.core->Step());
    for (auto& c : h.clients) c->stream->Take(&update);
  };
  for (int i = 0; i < 50; ++i) step();
  const uint64_t before = testing::NumAllocations();
  for (int i = 0; i < 200; ++i) step();
  EXPECT_EQ(testing::NumAllocations() - before, 0u);
}

}  // namespace
}  // namespace dunlin::testing
