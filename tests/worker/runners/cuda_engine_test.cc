// The engine over the CUDA runner: what a worker does with it, and what it does when the device fails.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/worker/runners/cuda_runner_fixture.h"
#include "worker/engine/engine_core.h"
#include "worker/runners/cuda_runner.h"

namespace dunlin::worker {
namespace {

struct TestEngine {
  explicit TestEngine(ModelRunner* runner) {
    EngineOptions options;
    options.max_num_seqs = 4;
    options.num_speculative_tokens = 3;
    options.drafting = Drafting::kAlways;
    core = EngineCore::Create(options, runner, Clock::Real(), nullptr).value();
  }
  std::shared_ptr<TokenStream> Add(std::vector<int32_t> prompt, int max_tokens, float temperature) {
    NewSequence s;
    s.prompt = std::move(prompt);
    s.max_tokens = max_tokens;
    s.sampling.temperature = temperature;
    s.sampling.seed = 5;
    s.stream = std::make_shared<TokenStream>();
    std::shared_ptr<TokenStream> stream = s.stream;
    core->Add(std::move(s), Clock::Real()->Now());
    return stream;
  }
  static StreamUpdate Taken(TokenStream* stream) {
    StreamUpdate update;
    EXPECT_TRUE(stream->Take(&update));
    return update;
  }

  std::unique_ptr<EngineCore> core;
};

// With drafts, greedy and drawn: the same answers alone and together.
TEST_F(CudaRunnerTest, AnswersDoNotDependOnTheBatch) {
  options_.max_rows = 96;  // every prompt in one portion: portions below kPrefillRows are another kernel's
  const auto runner = Cuda();
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 3; ++i) {
    prompts.emplace_back();
    for (int k = 0; k < 24 + 5 * i; ++k) prompts.back().push_back(10 + (k % 7) * (3 + i));
  }
  const auto temperature = [](size_t i) { return i == 1 ? 0.7f : 0.0f; };
  std::vector<std::vector<int32_t>> alone;
  for (size_t i = 0; i < prompts.size(); ++i) {
    TestEngine run(runner.get());
    const auto stream = run.Add(prompts[i], 12, temperature(i));
    while (run.core->Step()) run.core->DeliverEnds();
    alone.push_back(TestEngine::Taken(stream.get()).tokens);
    EXPECT_EQ(run.core->CheckIdle(), "");
  }
  TestEngine run(runner.get());
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (size_t i = 0; i < prompts.size(); ++i) streams.push_back(run.Add(prompts[i], 12, temperature(i)));
  while (run.core->Step()) {
    EXPECT_EQ(run.core->CheckInvariants(), "");
    run.core->DeliverEnds();
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(alone[i].size(), 12u);
    EXPECT_EQ(TestEngine::Taken(streams[i].get()).tokens, alone[i]) << i;
  }
}

TEST_F(CudaRunnerTest, AFailedDeviceEndsItsStreams) {
  const auto runner = Cuda();
  TestEngine run(runner.get());
  const auto stream = run.Add(Prompt(10, 1), 50, 0.0f);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(run.core->Step());
  EXPECT_FALSE(run.core->lost_device());
  runner->TEST_device()->Fail("an illegal memory access was encountered");
  while (run.core->Step()) {
  }
  run.core->DeliverEnds();
  EXPECT_TRUE(run.core->lost_device());
  const StreamUpdate update = TestEngine::Taken(stream.get());
  ASSERT_TRUE(update.end.has_value());
  EXPECT_EQ(update.end->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(update.end->status.message()).find("illegal memory access"), std::string::npos);
}

}  // namespace
}  // namespace dunlin::worker
