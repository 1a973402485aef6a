// The engine one step ahead of the CUDA runner, on an emulated stream that does its work as late as it may: the same
// tokens as in step, whatever the host changes meanwhile.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/emulator/emulator.h"
#include "tests/support/serve_all.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/runners/cuda_runner_fixture.h"
#include "worker/engine/engine_core.h"
#include "worker/runners/cuda_runner.h"

namespace dunlin::worker {
namespace {

// The same runner, but one step at a time.
class InStep final : public ModelRunner {
 public:
  explicit InStep(ModelRunner* runner) : runner_(runner), info_(runner->info()) { info_.max_steps_in_flight = 1; }
  const RunnerInfo& info() const override { return info_; }
  absl::Status Step(const StepBatch& batch, StepResult* result) override { return runner_->Step(batch, result); }
  absl::Status MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed) override {
    return runner_->MovePages(moves, failed);
  }

 private:
  ModelRunner* runner_;
  RunnerInfo info_;
};

class CudaAheadTest : public CudaRunnerTest {
 protected:
  ~CudaAheadTest() override { kernels::cuda::emulator::SetDeferred(false); }

  // Five streams of different lengths, some drawn, through three places; those of even number end at `stop` too.
  static testing::Answers Serve(ModelRunner* runner, int32_t stop) {
    EngineOptions options;
    options.max_num_seqs = 3;
    options.num_speculative_tokens = 0;
    std::vector<NewSequence> sequences;
    for (int i = 0; i < 5; ++i) {
      NewSequence s;
      s.prompt = Prompt(5 + 6 * i, static_cast<unsigned>(i));
      s.max_tokens = 5 + 3 * i;
      if (i % 2 == 0) s.stop_tokens = {stop};
      s.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
      s.sampling.seed = static_cast<uint64_t>(i);
      sequences.push_back(std::move(s));
    }
    return testing::ServeAll(runner, options, std::move(sequences));
  }
};

TEST_F(CudaAheadTest, TheSameAnswersAsInStep) {
  const auto runner = Cuda();
  ASSERT_EQ(runner->info().max_steps_in_flight, 2);
  InStep in_step(runner.get());
  const int32_t stop = Serve(&in_step, 0).tokens[4][8];
  const testing::Answers want = Serve(&in_step, stop);
  EXPECT_EQ(want.stats.steps_ahead, 0u);
  EXPECT_LT(want.tokens[4].size(), 17u) << "it ends early";
  for (const bool eager : {false, true}) {
    SCOPED_TRACE(eager);
    options_.enforce_eager = eager;
    const auto ahead = Cuda();
    kernels::cuda::emulator::SetDeferred(true);
    const testing::Answers got = Serve(ahead.get(), stop);
    kernels::cuda::emulator::SetDeferred(false);
    EXPECT_GT(got.stats.steps_ahead, 10u);
    EXPECT_GT(got.stats.void_rows, 0u);
    EXPECT_EQ(got.tokens, want.tokens);
  }
}

// Rows of logits by turns while a step before is in flight, and the step after it takes a token of theirs.
TEST_F(CudaAheadTest, ManyOutputsBetweenSteps) {
  options_.max_num_seqs = 4;  // of logits rows at a time, too
  const auto runner = Cuda();
  const std::vector<int32_t> prompt = Prompt(21, 3), pages = {5, 2}, other_pages = {7, 1};
  const auto batch = [](const std::vector<int32_t>& tokens, int context, const std::vector<int32_t>& table,
                        int outputs) {
    StepBatch b;
    const auto rows = static_cast<int32_t>(tokens.size());
    for (int32_t i = 0; i < rows; ++i) b.positions.push_back(context + i);
    b.token_ids = tokens;
    b.sequences = {{0, rows, context, table.data()}};
    for (int32_t i = rows - outputs; i < rows; ++i) b.output_rows.push_back(i);
    b.sample_params.resize(b.output_rows.size());
    for (kernels::SampleParams& p : b.sample_params) p.temperature = 0.0f;
    return b;
  };
  StepResult first, many, last;
  ASSERT_OK(runner->Step(batch(prompt, 0, pages, 1), &first));
  const int32_t token = first.outputs[0].token;
  ASSERT_OK(runner->Step(batch({token}, 21, pages, 1), &first));
  const int32_t second = first.outputs[0].token;
  ASSERT_OK(runner->Step(batch(prompt, 0, other_pages, 21), &many));
  ASSERT_OK(runner->Step(batch({many.outputs[17].token}, 21, other_pages, 1), &last));

  const auto ahead = Cuda();
  kernels::cuda::emulator::SetDeferred(true);
  StepResult a, b, c, d;
  ASSERT_OK(ahead->Submit(batch(prompt, 0, pages, 1)));
  StepBatch next = batch({-1}, 21, pages, 1);
  next.token_from_previous = {0};
  ASSERT_OK(ahead->Submit(next));
  next = {};
  ASSERT_OK(ahead->Wait(&a));
  EXPECT_EQ(a.outputs[0].token, token);
  ASSERT_OK(ahead->Submit(batch(prompt, 0, other_pages, 21)));
  ASSERT_OK(ahead->Wait(&b));
  EXPECT_EQ(b.outputs[0].token, second);
  next = batch({-1}, 21, other_pages, 1);
  next.token_from_previous = {17};
  ASSERT_OK(ahead->Submit(next));
  ASSERT_OK(ahead->Wait(&c));
  ASSERT_EQ(c.outputs.size(), 21u);
  for (size_t i = 0; i < 21; ++i) EXPECT_EQ(c.outputs[i].token, many.outputs[i].token) << i;
  ASSERT_OK(ahead->Wait(&d));
  EXPECT_EQ(d.outputs[0].token, last.outputs[0].token);
}

}  // namespace
}  // namespace dunlin::worker
