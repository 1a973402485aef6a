// The content oracle must be able to fail: each kind of wrong bookkeeping is shown to it.
#include "worker/runners/fake_runner.h"

#include <gtest/gtest.h>

#include <deque>
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
    tables_.push_back(pages);
    builder_.AddSequence(tokens, context, tables_.back(), false);
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
    tables_.clear();
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
  StepBatchBuilder builder_{16, 4, 2};
  std::deque<V> tables_;  // of the batch
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
  StepBatchBuilder builder(16, 4, 2);
  const V pages{1};
  builder.AddSequence(V{3, 1}, 0, pages, true);
  EXPECT_EQ(d.runner.Step(builder.Finish(), &d.result).code(), absl::StatusCode::kUnavailable);
}

FakeRunnerOptions TwoInFlight(bool at_submit) {
  FakeRunnerOptions o = Tiny();
  o.max_steps_in_flight = 2;
  o.executes_at_submit = [at_submit] { return at_submit; };
  return o;
}

// What is submitted is copied, and carried out in the order of the calls, whenever it is executed.
TEST(FakeRunner, AStepInFlightKeepsItsOwnCopyAndTheNextOneTakesItsTokens) {
  for (const bool at_submit : {false, true}) {
    FakeRunner runner(TwoInFlight(at_submit));
    StepBatchBuilder builder(16, 4, 2);
    V a{0, 1}, b{2, 3};
    std::vector<int32_t> banned = {runner.Greedy(V{8, 9}, 1)[0]};
    kernels::SampleParams greedy, other;
    greedy.temperature = other.temperature = 0.0f;
    other.banned = banned;
    builder.AddSequence(V{3, 1}, 0, a, true);
    builder.AddOutput(1, greedy);
    builder.AddSequence(V{8, 9}, 0, b, true);
    builder.AddOutput(1, other);
    ASSERT_TRUE(runner.Submit(builder.Finish()).ok());
    builder.Clear();
    builder.AddUnknownToken(1, 2, b);  // the second output
    builder.AddOutput(0, greedy);
    builder.AddUnknownToken(0, 2, a);
    builder.AddOutput(0, greedy);
    ASSERT_TRUE(runner.Submit(builder.Finish()).ok());
    a = b = {7, 7};
    banned[0] = 0;
    builder.Clear();
    V failed;
    ASSERT_TRUE(runner.MovePages({}, &failed).ok());
    StepResult first, second;
    ASSERT_TRUE(runner.Wait(&first).ok());
    ASSERT_TRUE(runner.Wait(&second).ok());
    const V of_a = runner.Greedy(V{3, 1}, 2);
    EXPECT_EQ(first.outputs[0].token, of_a[0]);
    EXPECT_EQ(second.outputs[1].token, of_a[1]);
    const int32_t drawn = first.outputs[1].token;
    EXPECT_NE(drawn, runner.Greedy(V{8, 9}, 1)[0]) << "banned";
    EXPECT_EQ(second.outputs[0].token, runner.Greedy(V{8, 9, drawn}, 1)[0]);
  }
}

TEST(FakeRunner, MovesComeAfterTheStepsInFlight) {
  FakeRunner runner(TwoInFlight(false));
  StepBatchBuilder builder(16, 4, 2);
  const V pages{0, 1}, copied{5, 1};
  builder.AddSequence(V{3, 1}, 0, pages, true);
  ASSERT_TRUE(runner.Submit(builder.Finish()).ok());
  V failed;
  ASSERT_TRUE(runner.MovePages(std::vector<kv::PageMove>{{Kind::kCopy, 0, 5}}, &failed).ok());
  builder.Clear();
  builder.AddSequence(V{4}, 2, copied, true);  // CHECK-fails if page 5 is what page 0 was before
  ASSERT_TRUE(runner.Submit(builder.Finish()).ok());
  StepResult result;
  ASSERT_TRUE(runner.Wait(&result).ok());
  ASSERT_TRUE(runner.Wait(&result).ok());
}

TEST(FakeRunnerDeathTest, ATokenOfNoStepInFlightOrAThirdStepIsFound) {
  const V pages{0, 1};
  FakeRunner runner(TwoInFlight(false));
  StepBatchBuilder builder(16, 4, 2);
  builder.AddUnknownToken(0, 2, pages);
  EXPECT_DEATH((void)runner.Submit(builder.Finish()), "num_held_");
  builder.Clear();
  builder.AddSequence(V{3}, 0, pages, true);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(runner.Submit(builder.Finish()).ok());
  EXPECT_DEATH((void)runner.Submit(builder.Finish()), "num_held_");
  EXPECT_DEATH((void)FakeRunner(Tiny()).Wait(nullptr), "num_held_");
}

// A runner that knows Step alone can be asked in two parts, too.
TEST(ModelRunner, ASynchronousRunnersResultIsKeptForWait) {
  class Synchronous final : public ModelRunner {
   public:
    const RunnerInfo& info() const override { return info_; }
    absl::Status Step(const StepBatch& batch, StepResult* result) override {
      result->outputs.resize(1);
      result->outputs[0].token = batch.token_ids[0] + 1;
      return batch.num_rows() == 1 ? absl::OkStatus() : absl::UnavailableError("too many");
    }
    absl::Status MovePages(std::span<const kv::PageMove>, std::vector<int32_t>*) override { return absl::OkStatus(); }

   private:
    RunnerInfo info_;
  };
  Synchronous runner;
  EXPECT_EQ(runner.info().max_steps_in_flight, 1);
  StepBatch batch;
  batch.token_ids = {4};
  ASSERT_TRUE(runner.Submit(batch).ok());
  StepResult result;
  ASSERT_TRUE(runner.Wait(&result).ok());
  EXPECT_EQ(result.outputs[0].token, 5);
  batch.token_ids = {4, 4};
  EXPECT_EQ(runner.Submit(batch).code(), absl::StatusCode::kUnavailable);
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
