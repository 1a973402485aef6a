// Clients that leave at any point of a stream, over real gRPC on loopback with the fake model: every call ends and
// every page comes back.
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "worker/engine/engine.h"
#include "worker/runners/fake_runner.h"
#include "worker/service/worker_service.h"

namespace dunlin::worker {
namespace {

constexpr int kMaxModelLen = 256;
constexpr absl::Duration kLongEnough = absl::Seconds(20);  // a limit for a failure, not a wait

class WorkerCancelTest : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  void SetUp() override {
    FakeRunnerOptions fake;
    fake.num_pages = 128;
    fake.max_model_len = kMaxModelLen;
    runner_ = std::make_unique<FakeRunner>(fake);
    EngineOptions options;
    options.max_num_seqs = 16;
    options.max_num_batched_tokens = 64;
    ASSERT_OK_AND_ASSIGN(engine_, Engine::Create(options, runner_.get(), Clock::Real(), nullptr));
    ASSERT_OK_AND_ASSIGN(server_, WorkerServer::Start("127.0.0.1:0", "worker0"));
    ServingEngine serving;
    serving.engine = engine_.get();
    serving.clock = Clock::Real();
    serving.runner = runner_->info();
    server_->SetReady(serving);
    stub_ = v1::WorkerService::NewStub(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  }
  void TearDown() override {
    stub_.reset();
    server_.reset();
    engine_.reset();
  }

  static v1::GenerateRequest Request(int choices, bool logprobs) {
    v1::GenerateRequest request;
    request.set_request_id("r");
    for (uint32_t i = 0; i < 40; ++i) request.add_prompt_ids(1 + i % 90);
    request.set_max_tokens(200);
    request.set_num_choices(static_cast<uint32_t>(choices));
    request.mutable_sampling()->set_temperature(1.0f);
    request.mutable_sampling()->set_seed(7);
    if (logprobs) {
      request.set_logprobs(5);
      request.set_prompt_logprobs(5);
    }
    return request;
  }

  std::unique_ptr<FakeRunner> runner_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<WorkerServer> server_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

TEST_P(WorkerCancelTest, AClientThatLeavesAfterAnyNumberOfEventsLeavesNothingBehind) {
  const auto [choices, logprobs] = GetParam();
  for (int events = 0; events < 60; ++events) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, Request(choices, logprobs));
    v1::GenerateResponse response;
    for (int i = 0; i < events && reader->Read(&response); ++i) {
    }
    context.TryCancel();
    reader->Finish();
    ASSERT_TRUE(server_->WaitIdle(kLongEnough)) << "left after " << events << " events: the call never ended";
  }
  EXPECT_EQ(engine_->Snapshot().held_pages, 0);
  EXPECT_EQ(engine_->Snapshot().running, 0);
}

TEST_P(WorkerCancelTest, ADeadlineInTheMiddleOfAStreamLeavesNothingBehind) {
  const auto [choices, logprobs] = GetParam();
  for (int ms = 0; ms < 30; ++ms) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(ms)));
    const auto reader = stub_->Generate(&context, Request(choices, logprobs));
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
    ASSERT_TRUE(server_->WaitIdle(kLongEnough)) << "a deadline of " << ms << " ms: the call never ended";
  }
  EXPECT_EQ(engine_->Snapshot().held_pages, 0);
}

TEST_P(WorkerCancelTest, ManyStreamsThatLeaveTogetherAllEnd) {
  const auto [choices, logprobs] = GetParam();
  {
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
    for (int i = 0; i < 160 / choices; ++i) {
      contexts.push_back(std::make_unique<grpc::ClientContext>());
      readers.push_back(stub_->Generate(contexts.back().get(), Request(choices, logprobs)));
    }
    for (size_t i = 0; i < readers.size(); ++i) {
      v1::GenerateResponse response;
      if (i % 3 == 0) readers[i]->Read(&response);
    }
    for (size_t i = 0; i < readers.size(); ++i) {
      contexts[i]->TryCancel();
      readers[i]->Finish();
    }
  }
  ASSERT_TRUE(server_->WaitIdle(kLongEnough));
  EXPECT_EQ(engine_->Snapshot().held_pages, 0);
}

TEST_P(WorkerCancelTest, AClientThatNeverReadsAndThenLeavesLeavesNothingBehind) {
  const auto [choices, logprobs] = GetParam();
  for (int round = 0; round < 8; ++round) {
    grpc::ClientContext context;
    v1::GenerateRequest request = Request(choices, logprobs);
    if (logprobs) request.set_logprobs(20);  // more than HTTP/2's window holds
    const auto reader = stub_->Generate(&context, request);
    while (engine_->Snapshot().generated_tokens < static_cast<uint64_t>(200 * choices * (round + 1))) {
      std::this_thread::yield();
    }
    context.TryCancel();
    reader->Finish();
    ASSERT_TRUE(server_->WaitIdle(kLongEnough)) << "round " << round << ": the call never ended";
  }
  EXPECT_EQ(engine_->Snapshot().held_pages, 0);
}

INSTANTIATE_TEST_SUITE_P(ChoicesAndLogprobs, WorkerCancelTest,
                         ::testing::Combine(::testing::Values(1, 3, 16), ::testing::Bool()), [](const auto& param) {
                           return "N" + std::to_string(std::get<0>(param.param)) +
                                  (std::get<1>(param.param) ? "Logprobs" : "Plain");
                         });

}  // namespace
}  // namespace dunlin::worker
