// The CUDA runner beyond its numbers: what it reports, page moves, a device that fails, refusals.
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/runners/cuda_runner_fixture.h"
#include "worker/runners/cuda_backend.h"
#include "worker/runners/cuda_runner.h"

namespace dunlin::worker {
namespace {

using ::testing::HasSubstr;
using testing::RunnerDriver;
using testing::StatusIs;
using Kind = kv::PageMove::Kind;
using Sequence = RunnerDriver::Sequence;

TEST_F(CudaRunnerTest, ReportsWhatItWasMadeOf) {
  options_.measure_bandwidth = true;
  const auto runner = Cuda();
  const RunnerInfo& info = runner->info();
  EXPECT_EQ(info.device, "cuda:0");
  EXPECT_EQ(info.isa, "sm_" + std::to_string(TheDevice().compute_capability));
  EXPECT_EQ(info.vocab_size, testing::kTinyVocabSize);
  EXPECT_EQ(info.max_model_len, 128);
  EXPECT_EQ(info.max_rows, 48);
  EXPECT_EQ(info.page_bytes % 256, 0u);
  EXPECT_EQ(info.num_pages, static_cast<int32_t>((uint64_t{1} << 20) / info.page_bytes));
  EXPECT_GT(info.weight_bytes, 0u);
  EXPECT_GT(info.peak_bandwidth_bytes_per_second, 1e8);
}

// A step of one sequence: `rows` rows after `context` tokens.
StepBatch OneSequence(const std::vector<int32_t>& pages, int rows, int context) {
  StepBatch batch;
  batch.sequences.push_back({0, rows, context, pages.data()});
  for (int i = 0; i < rows; ++i) {
    batch.token_ids.push_back((context + i) * 7 % 250);
    batch.positions.push_back(context + i);
  }
  batch.output_rows.push_back(rows - 1);
  batch.sample_params.emplace_back();
  batch.sample_params[0].num_top = 5;
  return batch;
}

TEST_F(CudaRunnerTest, MovedPagesAreAsGoodAsTheOriginals) {
  for (const std::string& directory : {std::string(), ::testing::TempDir()}) {
    options_.swap_bytes = 1 << 20;
    options_.swap_directory = directory;
    const auto runner = Cuda();
    EXPECT_GT(runner->info().host_slots, 6);
    StepResult original, moved;
    const std::vector<int32_t> pages = {1, 2}, copies = {20, 17}, restored = {11, 12};
    ASSERT_OK(runner->Step(OneSequence(pages, 20, 0), &original));
    std::vector<int32_t> failed{9};
    // More than are staged at a time; slot 6 was never written; page 1 goes out twice, is overwritten and comes back.
    const std::vector<kv::PageMove> moves = {{Kind::kCopy, 1, 20},    {Kind::kCopy, 2, 17},    {Kind::kSave, 1, 0},
                                             {Kind::kSave, 2, 1},     {Kind::kSave, 1, 2},     {Kind::kSave, 2, 3},
                                             {Kind::kSave, 1, 4},     {Kind::kSave, 2, 5},     {Kind::kCopy, 9, 1},
                                             {Kind::kRestore, 4, 11}, {Kind::kRestore, 5, 12}, {Kind::kRestore, 6, 13},
                                             {Kind::kCopy, 9, 2}};
    ASSERT_OK(runner->MovePages(moves, &failed));
    EXPECT_EQ(failed, std::vector<int32_t>{13});
    ASSERT_OK(runner->Step(OneSequence(copies, 1, 20), &original));
    ASSERT_OK(runner->Step(OneSequence(restored, 1, 20), &moved));
    EXPECT_EQ(moved.outputs[0].top_ids, original.outputs[0].top_ids);
    EXPECT_EQ(moved.outputs[0].top_logprobs, original.outputs[0].top_logprobs);
    EXPECT_EQ(runner->TEST_page(20), runner->TEST_page(11));
  }
}

// A restarted sequence (its pages went to others meanwhile) says what it said.
TEST_F(CudaRunnerTest, ARestartedSequenceIsUndisturbed) {
  const auto runner = Cuda();
  RunnerDriver driver = Driver(runner.get());
  Sequence s, other;
  const std::vector<int32_t> prompt = Prompt(30, 4);
  const auto last = [](int position) { return position == 29; };
  const Row before = driver.Feed(&s, prompt, 48, last)[0];
  const Row next = driver.Step({{&s, {17}, {0}}})[0];
  driver.Close(&s);
  driver.Feed(&other, Prompt(40, 8), 48, last);
  EXPECT_EQ(driver.Feed(&s, prompt, 48, last)[0], before);
  EXPECT_EQ(driver.Step({{&s, {17}, {0}}})[0], next);
}

TEST_F(CudaRunnerTest, AFailedDeviceStaysLost) {
  const auto runner = Cuda();
  const std::vector<int32_t> pages = {1, 2};
  StepResult result;
  ASSERT_OK(runner->Step(OneSequence(pages, 20, 0), &result));
  runner->TEST_device()->Fail("an illegal memory access was encountered");
  std::vector<int32_t> failed;
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(runner->Step(OneSequence(pages, 1, 20), &result),
                StatusIs(absl::StatusCode::kUnavailable,
                         HasSubstr("cuda:0 (" + TheDevice().name + "): an illegal memory access")));
    EXPECT_THAT(runner->MovePages(std::vector<kv::PageMove>{{Kind::kCopy, 1, 3}}, &failed),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("illegal memory access")));
  }
}

TEST_F(CudaRunnerTest, WhatItLacksIsRefusedByName) {
  const auto refused = [this](const RunnerOptions& options) {
    return CreateCudaRunner(File(), options, OpenDevice()).status();
  };
  RunnerOptions o = options_;
  o.attention_top_pages = 4;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("--attention-top-pages 4")));
  o = options_;
  o.page_tokens = 8;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("--block-size 8")));
  o = options_;
  o.k_format = o.v_format = kernels::KvFormat::kBF16;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("page formats other than")));
  o = options_;
  o.max_model_len = 999;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--max-model-len 999")));
  o = options_;
  o.kv_bytes = 1000;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("not even one page")));
  o.kv_bytes = uint64_t{1} << 50;
  EXPECT_THAT(refused(o), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--kv-cache-memory-bytes")));
}

TEST_F(CudaRunnerTest, AModelThatItLacksIsRefusedByName) {
  model_.head_dim = 32;
  EXPECT_THAT(CreateCudaRunner(File(), options_, OpenDevice()).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("head_dim not 64, 128 or 256")));
}

TEST_F(CudaRunnerTest, UnlikeGatesAreRefusedByLayer) {
  model_.tensor_types = {{"blk.1.ffn_up.weight", kernels::DType::kF16}};
  EXPECT_THAT(CreateCudaRunner(File(), options_, OpenDevice()).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("layer 1 differ")));
}

TEST_F(CudaRunnerTest, ThePlanIsWhatTheRunnerTakes) {
  options_.swap_bytes = 1 << 20;
  const auto device = OpenDevice();
  ASSERT_OK_AND_ASSIGN(const RunnerPlan plan, PlanCudaRunner(File(), options_, device.get()));
  const auto runner = Cuda();
  EXPECT_EQ(plan.device, "cuda:0 (" + TheDevice().name + ")");
  EXPECT_EQ(plan.pool.pages, runner->info().num_pages);
  EXPECT_EQ(plan.page_bytes, runner->info().page_bytes);
  EXPECT_EQ(plan.host_slots, runner->info().host_slots);
  EXPECT_EQ(plan.max_model_len, 128);
  EXPECT_GT(plan.scratch_bytes, 0u);
}

}  // namespace
}  // namespace dunlin::worker
