// What the engine must refuse because the sampler below it has no answer: checked here, whoever checked before.
#include <gtest/gtest.h>

#include <limits>
#include <memory>

#include "tests/support/status_matchers.h"
#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using ::testing::HasSubstr;

TEST(EngineRefusals, ATopPThatKeepsNothingIsRefused) {
  CoreHarness h;
  worker::NewSequence s = Greedy({1, 2}, 3);
  s.stream = std::make_shared<worker::TokenStream>();
  s.sampling.temperature = 1.0f;
  for (const float bad : {0.0f, -0.1f, 1.1f, std::numeric_limits<float>::quiet_NaN()}) {
    s.sampling.top_p = bad;
    EXPECT_THAT(h.core->Check(s), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sampling.top_p"))) << bad;
  }
  for (const float good : {std::numeric_limits<float>::denorm_min(), 1.0f}) {
    s.sampling.top_p = good;
    EXPECT_OK(h.core->Check(s)) << good;
  }
}

TEST(EngineRefusals, AnEndOfGenerationTokenOutsideTheVocabularyIsRefusedAtTheStart) {
  worker::FakeRunner runner({});
  FakeClock clock;
  worker::EngineOptions options;
  for (const int32_t bad : {-1, runner.info().vocab_size}) {
    options.end_of_generation = {bad};
    EXPECT_THAT(worker::EngineCore::Create(options, &runner, &clock, nullptr).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("end_of_generation")));
  }
  options.end_of_generation = {0, runner.info().vocab_size - 1};
  EXPECT_OK(worker::EngineCore::Create(options, &runner, &clock, nullptr).status());
}

}  // namespace
}  // namespace dunlin::testing
