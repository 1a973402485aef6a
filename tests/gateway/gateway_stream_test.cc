// Streams through a real gateway: order, text, stops, choices, cancellation, slow readers, lost workers.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "proto/status_map.h"
#include "tests/gateway/fake_worker.h"
#include "tests/gateway/gateway_fixture.h"
#include "tests/support/status_matchers.h"

namespace dunlin::testing {
namespace {

TEST(GatewayStream, EventsArriveInOrderNumberedAndWhole) {
  FakeWorker worker({}, Answer("hé😀llo"));
  GatewayFixture f({&worker});
  const auto stream = f.Generate(Prompt("abc"));
  ASSERT_OK(stream.status);
  for (size_t i = 0; i < stream.events.size(); ++i) EXPECT_EQ(stream.events[i].sequence(), i);
  ASSERT_GE(stream.events.size(), 4u);
  EXPECT_EQ(stream.events[0].accepted().model(), "tiny");
  EXPECT_EQ(stream.events[0].accepted().worker_id(), "worker0");
  EXPECT_EQ(stream.events[0].accepted().prompt_tokens(), worker.requests()[0].prompt_ids_size());
  EXPECT_FALSE(stream.events[0].accepted().request_id().empty());
  EXPECT_EQ(stream.Text(), "hé😀llo");
  ASSERT_NE(stream.finished(), nullptr);
  EXPECT_EQ(stream.finished()->reason(), v1::FINISH_REASON_EOS);
  ASSERT_NE(stream.summary(), nullptr);
  EXPECT_EQ(stream.summary()->usage().completion_tokens(), 10u);
  EXPECT_EQ(stream.summary()->timing().kv_pages_peak(), 7u);
  EXPECT_GT(stream.summary()->timing().ttft().nanos() + stream.summary()->timing().ttft().seconds(), 0);
}

TEST(GatewayStream, TheWorkerGetsTokensEffectiveValuesAndTheRemainingDeadline) {
  std::atomic<int64_t> left_ms{0};
  FakeWorker worker({}, [&](FakeCall* call) {
    left_ms = std::chrono::duration_cast<std::chrono::milliseconds>(call->deadline() - std::chrono::system_clock::now())
                  .count();
    return Answer("x")(call);
  });
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("zzz");
  request.mutable_sampling()->set_seed(42);
  request.mutable_stopping()->set_max_tokens(1000);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  v1::GenerateUnaryRequest unary;
  *unary.mutable_request() = request;
  v1::GenerateUnaryResponse response;
  ASSERT_TRUE(f.stub->GenerateUnary(&context, unary, &response).ok());
  EXPECT_EQ(response.choices(0).text(), "x");
  EXPECT_EQ(response.choices(0).reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(response.usage().completion_tokens(), 1u);
  const worker::v1::GenerateRequest sent = worker.requests()[0];
  EXPECT_EQ(sent.prompt_ids_size(), 3);
  EXPECT_EQ(sent.sampling().seed(), 42u);
  EXPECT_FLOAT_EQ(sent.sampling().temperature(), 1.0f);
  EXPECT_EQ(sent.max_tokens(), 253u) << "clipped to what the context leaves";
  EXPECT_GT(left_ms.load(), 0);
  EXPECT_LE(left_ms.load(), 31'000) << "gRPC rounds the time left up on each hop, by about a percent";
}

TEST(GatewayStream, AStopStringCutsAcrossChunksAndCancelsTheWorker) {
  FakeWorker worker({}, nullptr);
  worker.SetScript([&](FakeCall* call) {
    call->Scheduled();
    for (const char* piece : {"on", "e S", "TO", "P two"}) call->Tokens(piece);
    call->WaitUntilCancelled();
    worker.CountCancelled();
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("abc");
  request.mutable_stopping()->add_stop("never");
  request.mutable_stopping()->add_stop("STOP");
  const auto stream = f.Generate(request);
  ASSERT_OK(stream.status);
  EXPECT_EQ(stream.Text(), "one ");
  EXPECT_EQ(stream.finished()->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stream.finished()->stop(), "STOP");
  ASSERT_NE(stream.summary(), nullptr);
  EXPECT_EQ(stream.summary()->usage().completion_tokens(), 8u);
  worker.WaitForCancelled(1);
}

TEST(GatewayStream, ChoicesAreRelayedByIndex) {
  FakeWorker worker({}, [](FakeCall* call) {
    EXPECT_EQ(call->request().num_choices(), 2u);
    call->Scheduled();
    call->Tokens("a", 0);
    call->Tokens("x", 1);
    call->Tokens("b", 0);
    call->Finished(v1::FINISH_REASON_LENGTH, 0);
    call->Tokens("y", 1);
    call->Finished(v1::FINISH_REASON_EOS, 1);
    call->Summary();
    return grpc::Status::OK;
  });
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("abc");
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->set_seed(5);
  request.mutable_stopping()->set_max_tokens(2);
  const auto stream = f.Generate(request);
  ASSERT_OK(stream.status);
  EXPECT_EQ(stream.Text(0), "ab");
  EXPECT_EQ(stream.Text(1), "xy");
  EXPECT_EQ(stream.finished(0)->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(stream.finished(1)->seed_used(), 6u);
}

TEST(GatewayStream, ACancelledClientCancelsTheWorker) {
  FakeWorker worker({}, nullptr);
  worker.SetScript([&](FakeCall* call) {
    call->Scheduled();
    call->Tokens("a");
    call->WaitUntilCancelled();
    worker.CountCancelled();
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({&worker});
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    const auto reader = f.stub->Generate(&context, Prompt("abc"));
    v1::GenerateResponse event;
    ASSERT_TRUE(reader->Read(&event));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  worker.WaitForCancelled(3);
  f.AwaitMetric("dunlin_active_streams 0");
  f.AwaitMetric("dunlin_requests_total{code=\"CANCELLED\",model=\"tiny\"} 3");
}

TEST(GatewayStream, TheClientsDeadlineEndsBothSides) {
  FakeWorker worker({}, nullptr);
  worker.SetScript([&](FakeCall* call) {
    call->Scheduled();
    call->WaitUntilCancelled();
    worker.CountCancelled();
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({&worker});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const auto reader = f.stub->Generate(&context, Prompt("abc"));
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  worker.WaitForCancelled(1);
  f.AwaitMetric("dunlin_active_streams 0");
}

TEST(GatewayStream, ASlowReaderPausesItsWorkerStreamAndNobodyElse) {
  constexpr int kMessages = 200'000;  // 200 MB of text: no buffer on the way holds it
  std::atomic<int> sent{0};
  FakeWorker worker({}, [&](FakeCall* call) {
    if (call->request().request_id() != "slow") return Answer("quick")(call);
    call->Scheduled();
    for (int i = 0; i < kMessages && call->Tokens(std::string(1024, 'x')); ++i) ++sent;
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({&worker});
  const auto slow_channel = GatewayFixture::Connect(f.gateway->grpc_address());
  const auto slow_stub = v1::InferenceService::NewStub(slow_channel);
  grpc::ClientContext context;
  v1::GenerateRequest slow = Prompt("abc");
  slow.set_request_id("slow");
  slow.mutable_output()->set_token_ids(true);
  const auto reader = slow_stub->Generate(&context, slow);
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));  // accepted; from here it reads nothing
  // Until flow control holds the worker's stream; without it, the worker would send everything.
  int before = -1;
  while (before != sent.load() || before == 0) {
    before = sent.load();
    for (int i = 0; i < 20; ++i) {
      const auto stream = f.Generate(Prompt("abc"));
      ASSERT_OK(stream.status);
      ASSERT_EQ(stream.Text(), "quick");
    }
  }
  EXPECT_LT(sent.load(), kMessages);
  context.TryCancel();
  reader->Finish();
  f.AwaitMetric("dunlin_active_streams 0");
}

TEST(GatewayStream, AKilledWorkerEndsTheStreamWithItsPosition) {
  auto worker = std::make_unique<FakeWorker>(FakeWorker::Options{}, nullptr);
  worker->SetScript([](FakeCall* call) {
    call->Scheduled();
    call->Tokens("abc");
    call->WaitUntilCancelled();
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({worker.get()});
  grpc::ClientContext context;
  const auto reader = f.stub->Generate(&context, Prompt("abc"));
  v1::GenerateResponse event;
  std::string text;
  while (text.size() < 3 && reader->Read(&event)) text += event.delta().text();
  EXPECT_EQ(text, "abc");
  const int port = worker->port();
  worker->Kill();
  while (reader->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  const auto info = GetErrorInfo(status);
  ASSERT_TRUE(info.has_value()) << status;
  EXPECT_EQ(info->reason, "WORKER_LOST");
  EXPECT_EQ(info->domain, "dunlin");
  EXPECT_EQ(info->metadata.at("position"), "3");
  f.AwaitHealth(false);
  EXPECT_TRUE(f.HasMetric("dunlin_worker_up{worker=\"worker0\"} 0"));
  const auto refused = f.Generate(Prompt("abc"));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetErrorInfo(refused.status)->reason, "NO_WORKER_READY");
  EXPECT_TRUE(GetRetryDelay(refused.status).has_value());
  // The same address again, as after a restart.
  FakeWorker again({.port = port}, Answer("back"));
  f.AwaitHealth(true);
  EXPECT_EQ(f.Generate(Prompt("abc")).Text(), "back");
}

TEST(GatewayStream, ManyStreamsAtOnceKeepToThemselves) {
  FakeWorker worker({}, [](FakeCall* call) { return Answer("echo " + call->request().request_id())(call); });
  GatewayFixture f({&worker});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        v1::GenerateRequest request = Prompt("abc");
        request.set_request_id("r" + std::to_string(t) + "-" + std::to_string(i));
        const auto stream = f.Generate(request);
        if (!stream.status.ok() || stream.Text() != "echo " + request.request_id()) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  f.AwaitMetric("dunlin_active_streams 0");
  f.AwaitMetric("dunlin_requests_total{code=\"OK\",model=\"tiny\"} 80");
}

TEST(GatewayStream, LoadIsSpreadOverReadyWorkers) {
  FakeWorker a({.worker_id = "a"}, nullptr);
  FakeWorker b({.worker_id = "b"}, nullptr);
  for (FakeWorker* worker : {&a, &b}) {
    worker->SetScript([](FakeCall* call) {
      call->Scheduled();
      call->WaitUntilCancelled();
      return grpc::Status::CANCELLED;
    });
  }
  GatewayFixture f({&a, &b});
  f.AwaitMetric("dunlin_worker_up{worker=\"a\"} 1");
  f.AwaitMetric("dunlin_worker_up{worker=\"b\"} 1");
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 6; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(f.stub->Generate(contexts.back().get(), Prompt("abc")));
    v1::GenerateResponse event;
    ASSERT_TRUE(readers.back()->Read(&event));
  }
  EXPECT_EQ(a.requests().size(), 3u);
  EXPECT_EQ(b.requests().size(), 3u);
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) reader->Finish();
}

}  // namespace
}  // namespace dunlin::testing
