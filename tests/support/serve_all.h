// Requests through an engine over a real runner, all at once, to their ends.
// Thread-safety: test thread only.  Errors: what breaks an invariant fails the test.
#ifndef DUNLIN_TESTS_SUPPORT_SERVE_ALL_H_
#define DUNLIN_TESTS_SUPPORT_SERVE_ALL_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "worker/engine/engine_core.h"

namespace dunlin::testing {

struct Answers {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> logprobs;
  worker::EngineStats stats;
};

// An engine of their own; the streams of the requests are made here.
inline Answers ServeAll(worker::ModelRunner* runner, const worker::EngineOptions& options,
                        std::vector<worker::NewSequence> requests) {
  const auto core = worker::EngineCore::Create(options, runner, Clock::Real(), nullptr).value();
  std::vector<std::shared_ptr<worker::TokenStream>> streams;
  for (worker::NewSequence& s : requests) {
    s.stream = std::make_shared<worker::TokenStream>();
    streams.push_back(s.stream);
    core->Add(std::move(s), Clock::Real()->Now());
  }
  while (core->Step()) {
    EXPECT_EQ(core->CheckInvariants(), "");
    core->DeliverEnds();
  }
  EXPECT_EQ(core->CheckIdle(), "");
  Answers answers;
  for (const auto& stream : streams) {
    worker::StreamUpdate update;
    EXPECT_TRUE(stream->Take(&update));
    EXPECT_TRUE(update.end.has_value());
    answers.tokens.push_back(update.tokens);
    answers.logprobs.emplace_back();
    for (const worker::TokenLogprob& l : update.logprobs) answers.logprobs.back().push_back(l.logprob);
  }
  answers.stats = core->stats();
  return answers;
}

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_SERVE_ALL_H_
