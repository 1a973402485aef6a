// The content oracle must be able to fail: each kind of wrong bookkeeping is shown to it.
#include "worker/runners/fake_runner.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/sampling.h"
#include "worker/scheduler/step_batch.h"

namespace dunlin::worker {
namespace {

using V = std::vector<int32_t>;
using Kind = kv::PageMove::Kind;

FakeRunnerOptions Tiny() {
  FakeRunnerOptions o;
  o.page_tokens = 2;
  o.num_pages = 8;
  o.max_model_len = 16;
  o.max_rows = 16;
  return o;
}

class Driver {
 public:
  explicit Driver(FakeRunnerOptions options = Tiny()) : runner(std::move(options)) {}

  Driver& Add(const V& tokens, int32_t context, const V& pages, float temperature = 0.0f) {
    builder_.AddSequence(tokens, context, pages, false);
    kernels::SampleParams p;
    p.temperature = temperature;
    p.seed = 5;
    p.position = static_cast<uint64_t>(context) + tokens.size();
    builder_.AddOutput(static_cast<int32_t>(tokens.size()) - 1, p);
    return *this;
  }
  V Run() {
    const absl::Status status = runner.Step(builder_.Finish(), &result);
    EXPECT_TRUE(status.ok()) << status;
    builder_.Clear();
    V drawn;
    for (const kernels::SampleResult& r : result.outputs) drawn.push_back(r.token);
    return drawn;
  }

  V Move(const std::vector<kv::PageMove>& moves) {
    V failed{-1};
    const absl::Status status = runner.MovePages(moves, &failed);
    EXPECT_TRUE(status.ok()) << status;
    return failed;
  }

  FakeRunner runner;
  StepResult result;

 private:
  StepBatchBuilder builder_{16, 4, 64, 2};
};

TEST(FakeRunner, ContinuesAPrefixAsItsHashSays) {
  Driver d;
  const V prompt{3, 1, 4, 1, 5};
  const V expected = d.runner.Greedy(prompt, 3);
  V tokens = d.Add({3, 1, 4}, 0, {6, 2}).Run();  // in two chunks, on scattered pages
  tokens = d.Add({1, 5}, 3, {6, 2, 0}).Run();
  EXPECT_EQ(tokens, V{expected[0]});
  tokens = d.Add(tokens, 5, {6, 2, 0}).Run();
  EXPECT_EQ(tokens, V{expected[1]});
  EXPECT_NE(d.runner.Greedy(V{3, 1, 4, 1, 6}, 3), expected) << "every token of the prefix counts";
}

TEST(FakeRunner, DrawsWhatTheReferenceSamplerDraws) {
  Driver d;
  const V drawn = d.Add({3, 1}, 0, {0}, 3.0f).Run();
  std::vector<float> logits;
  d.runner.Logits(V{3, 1}, &logits);
  kernels::SampleParams p;
  p.temperature = 3.0f;
  p.seed = 5;
  p.position = 2;
  kernels::SampleResult expected;
  kernels::SampleReference(logits.data(), static_cast<int>(logits.size()), p, &expected);
  EXPECT_EQ(drawn, V{expected.token});
}

TEST(FakeRunner, CopiedPagesHoldTheSameTokens) {
  Driver d;
  d.Add({3, 1}, 0, {0}).Run();
  d.Move({{Kind::kCopy, 0, 5}});
  EXPECT_EQ(d.Add({4}, 2, {5, 1}).Run(), d.runner.Greedy(V{3, 1, 4}, 1));
}

TEST(FakeRunner, PagesComeBackFromTheHostTierAsTheyWere) {
  FakeRunnerOptions o = Tiny();
  o.host_slots = 2;
  Driver d(o);
  EXPECT_EQ(d.runner.info().host_slots, 2);
  d.Add({3, 1}, 0, {0}).Run();
  // In order: page 0 is saved before it is overwritten, and comes back into another one.
  EXPECT_EQ(d.Move({{Kind::kSave, 0, 1}, {Kind::kCopy, 6, 0}, {Kind::kRestore, 1, 5}}), V{});
  EXPECT_EQ(d.Add({4}, 2, {5, 1}).Run(), d.runner.Greedy(V{3, 1, 4}, 1));
}

TEST(FakeRunnerDeathTest, ADamagedRecordIsToldAndItsPageHoldsNothing) {
  FakeRunnerOptions o = Tiny();
  o.host_slots = 2;
  o.damaged = [](int32_t slot) { return slot == 1; };
  Driver d(o);
  d.Add({3, 1}, 0, {0}).Run();
  EXPECT_EQ(d.Move({{Kind::kSave, 0, 0}, {Kind::kSave, 0, 1}, {Kind::kRestore, 0, 4}, {Kind::kRestore, 1, 5}}), V{5});
  EXPECT_EQ(d.Add({4}, 2, {4, 1}).Run(), d.runner.Greedy(V{3, 1, 4}, 1));
  EXPECT_DEATH(d.Add({4}, 2, {5, 1}).Run(), "content oracle");
}

TEST(FakeRunner, AHookDecidesWhetherAStepFails) {
  FakeRunnerOptions o = Tiny();
  o.before_step = [](const StepBatch& batch) {
    return batch.num_rows() > 1 ? absl::UnavailableError("too many") : absl::OkStatus();
  };
  Driver d(o);
  d.Add({3}, 0, {0}).Run();
  StepBatchBuilder builder(16, 4, 64, 2);
  builder.AddSequence(V{3, 1}, 0, V{1}, true);
  EXPECT_EQ(d.runner.Step(builder.Finish(), &d.result).code(), absl::StatusCode::kUnavailable);
}

TEST(FakeRunnerDeathTest, AnotherSequencesPageInTheTableIsFound) {
  Driver d;
  d.Add({3, 1}, 0, {0}).Add({8, 9}, 0, {1}).Run();
  d.Add({4, 4}, 2, {0, 2}).Run();
  EXPECT_DEATH(d.Add({5}, 4, {1, 2, 3}).Run(), "content oracle: another sequence");
}

TEST(FakeRunnerDeathTest, APageInTheWrongPlaceIsFound) {
  Driver d;
  d.Add({3, 1, 4, 1}, 0, {0, 1}).Run();
  EXPECT_DEATH(d.Add({5}, 4, {1, 0, 2}).Run(), "content oracle: another position");
}

TEST(FakeRunnerDeathTest, APageNeverWrittenIsFound) {
  Driver d;
  EXPECT_DEATH(d.Add({5}, 2, {3, 4}).Run(), "content oracle");
}

TEST(FakeRunnerDeathTest, APageThatWasHandedToSomebodyElseIsFound) {
  Driver d;
  d.Add({3, 1, 4}, 0, {0, 1}).Run();
  d.Add({8, 9}, 0, {0}).Run();  // page 0 is reused although the first sequence goes on
  EXPECT_DEATH(d.Add({5}, 3, {0, 1}).Run(), "content oracle: another sequence");
}

TEST(FakeRunnerDeathTest, TwoSequencesWritingIntoOnePageInOneStepAreFound) {
  Driver d;
  EXPECT_DEATH(d.Add({3, 1}, 0, {0}).Add({8, 9}, 0, {0}).Run(), "two rows of one step");
  EXPECT_DEATH(
      {
        d.Add({3, 1}, 0, {0}).Run();
        d.Add({4}, 2, {0, 1}).Add({8, 9}, 0, {0}).Run();
      },
      "content oracle");
}

}  // namespace
}  // namespace dunlin::worker
