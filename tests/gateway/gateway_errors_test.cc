// Every status of the public contract, as a client of a real gateway sees it.
#include <functional>
#include <string>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/client_callback.h"
#include "gtest/gtest.h"
#include "proto/status_map.h"
#include "tests/gateway/fake_worker.h"
#include "tests/gateway/gateway_fixture.h"
#include "tests/support/status_matchers.h"

namespace dunlin::testing {
namespace {

using ::testing::HasSubstr;

TEST(GatewayErrors, BadFieldsAreInvalidArgumentWithTheirPath) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker});
  struct Case {
    std::string field;
    std::function<void(v1::GenerateRequest*)> spoil;
  };
  const std::vector<Case> cases = {
      {"sampling.temperature", [](auto* r) { r->mutable_sampling()->set_temperature(std::stof("nan")); }},
      {"stopping.stop",
       [](auto* r) {
         for (int i = 0; i < 10'000; ++i) r->mutable_stopping()->add_stop("s");
       }},
      {"prompt", [](auto* r) { r->set_prompt(""); }},
      {"prompt", [](auto* r) { r->clear_input(); }},
      {"stopping.stop_token_ids[0]", [](auto* r) { r->mutable_stopping()->add_stop_token_ids(1'000'000); }},
  };
  for (const Case& c : cases) {
    v1::GenerateRequest request = Prompt("abc");
    c.spoil(&request);
    const auto stream = f.Generate(request);
    EXPECT_EQ(stream.status.code(), absl::StatusCode::kInvalidArgument) << stream.status;
    const auto violations = GetFieldViolations(stream.status);
    ASSERT_FALSE(violations.empty()) << c.field;
    EXPECT_EQ(violations[0].field, c.field);
    EXPECT_TRUE(stream.events.empty());
  }
  EXPECT_TRUE(worker.requests().empty()) << "no refused request reaches a worker";
  f.AwaitMetric("dunlin_rejected_total{reason=\"invalid_argument\"} 5");
}

TEST(GatewayErrors, APromptLongerThanTheContextIsOutOfRangeNamingBoth) {
  FakeWorker worker({.max_model_len = 16}, Answer("x"));
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt(std::string(20, 'z'));
  auto stream = f.Generate(request);
  EXPECT_THAT(stream.status, StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("20")));
  EXPECT_THAT(stream.status, StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("16")));
  EXPECT_EQ(GetErrorInfo(stream.status)->metadata.at("max_prompt_tokens"), "15");
  request.set_prompt(std::string(15, 'z'));
  EXPECT_OK(f.Generate(request).status);
  request.set_prompt(std::string(20, 'z'));
  request.mutable_truncate_prompt()->set_side(v1::TruncatePrompt::SIDE_LEFT);
  stream = f.Generate(request);
  EXPECT_OK(stream.status);
  EXPECT_EQ(worker.requests().back().prompt_ids_size(), 15);
}

TEST(GatewayErrors, AnUnknownModelIsNotFound) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("abc");
  request.set_model("no-such-model");
  EXPECT_THAT(f.Generate(request).status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("no-such-model")));
  f.AwaitMetric("dunlin_requests_total{code=\"NOT_FOUND\",model=\"unknown\"} 1");
  request.set_model("tiny");
  EXPECT_OK(f.Generate(request).status);
}

TEST(GatewayErrors, FeaturesThatAreNotBuiltAreNamed) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("abc");
  request.mutable_constraint()->set_regex("a*");
  EXPECT_THAT(f.Generate(request).status, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("constraint.regex")));
  grpc::ClientContext context;
  v1::EmbedResponse response;
  const grpc::Status status = f.stub->Embed(&context, v1::EmbedRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("Embed"));
}

TEST(GatewayErrors, InvalidUtf8IsRefusedByTheParser) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker});
  const std::string raw("\x22\x02\xC3\x28", 4);  // field 4 (prompt), two bytes that are no UTF-8
  grpc::ByteBuffer response;
  grpc::GenericStub stub(f.channel);
  grpc::ClientContext context;
  grpc::Status status;
  Mutex mu;
  CondVar changed;
  bool done = false;
  // GenerateRequest is field 1 of GenerateUnaryRequest; the same bytes, one level down.
  const std::string wrapped = std::string("\x0A\x04", 2) + raw;
  grpc::Slice slice(wrapped);
  grpc::ByteBuffer request(&slice, 1);
  stub.UnaryCall(&context, "/dunlin.v1.InferenceService/GenerateUnary", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status s) {
                   MutexLock lock(&mu);
                   status = std::move(s);
                   done = true;
                   changed.SignalAll();
                 });
  MutexLock lock(&mu);
  while (!done) changed.Wait(&mu);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("UTF-8"));
  EXPECT_TRUE(worker.requests().empty());
}

TEST(GatewayErrors, ARequestIdInUseAlreadyExistsAndIsFreeAfterwards) {
  FakeWorker worker({}, [](FakeCall* call) {
    call->Scheduled();
    call->WaitUntilCancelled();
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("abc");
  request.set_request_id("mine");
  grpc::ClientContext context;
  const auto reader = f.stub->Generate(&context, request);
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_THAT(f.Generate(request).status, StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("mine")));
  context.TryCancel();
  reader->Finish();
  f.AwaitMetric("dunlin_active_streams 0");
  worker.SetScript(Answer("again"));
  EXPECT_EQ(f.Generate(request).Text(), "again");
}

TEST(GatewayErrors, AFullQueueIsResourceExhaustedWithRetryInfoAndQuotaFailure) {
  FakeWorker worker({}, [](FakeCall* call) {
    if (call->request().request_id() != "first") return Answer("served")(call);
    call->Scheduled();
    call->WaitUntilCancelled();
    return grpc::Status::CANCELLED;
  });
  GatewayFixture f({&worker}, true,
                   [](gateway::GatewayOptions* options) { options->limits = {.max_active = 1, .max_queued = 1}; });
  v1::GenerateRequest first = Prompt("abc");
  first.set_request_id("first");
  grpc::ClientContext first_context;
  const auto first_reader = f.stub->Generate(&first_context, first);
  v1::GenerateResponse event;
  ASSERT_TRUE(first_reader->Read(&event));
  grpc::ClientContext queued_context;
  const auto queued_reader = f.stub->Generate(&queued_context, Prompt("abc"));
  f.AwaitMetric("dunlin_queued_requests 1");
  const auto refused = f.Generate(Prompt("abc"));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(GetRetryDelay(refused.status).value_or(absl::ZeroDuration()), absl::ZeroDuration());
  ASSERT_FALSE(GetQuotaViolations(refused.status).empty());
  EXPECT_EQ(GetQuotaViolations(refused.status)[0].field, "gateway:queue");
  f.AwaitMetric("dunlin_rejected_total{reason=\"queue_full\"} 1");
  first_context.TryCancel();
  first_reader->Finish();
  GatewayFixture::Stream queued;
  while (queued_reader->Read(&event)) queued.events.push_back(event);
  EXPECT_TRUE(queued_reader->Finish().ok());
  EXPECT_EQ(queued.Text(), "served") << "the one that waited gets its turn";
}

TEST(GatewayErrors, AWorkersRefusalKeepsItsCode) {
  FakeWorker worker({}, [](FakeCall*) {
    absl::Status status = absl::ResourceExhaustedError("inbox is full");
    AttachQuotaFailure("worker:inbox", "1024 sequences", &status);
    return ToGrpcStatus(status);
  });
  GatewayFixture f({&worker});
  const auto stream = f.Generate(Prompt("abc"));
  EXPECT_EQ(stream.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetQuotaViolations(stream.status)[0].field, "worker:inbox");
  EXPECT_TRUE(stream.events.empty());
}

TEST(GatewayErrors, WithoutAWorkerTheAnswerIsUnavailableAtOnce) {
  GatewayFixture f({}, /*wait=*/false);
  const auto stream = f.Generate(Prompt("abc"));
  EXPECT_EQ(stream.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetErrorInfo(stream.status)->reason, "NO_WORKER_READY");
  EXPECT_TRUE(GetRetryDelay(stream.status).has_value());
}

TEST(GatewayErrors, AWorkerOfAnotherModelIsNotUsed) {
  FakeWorker wrong({.worker_id = "wrong", .served_model_name = "other"}, Answer("wrong"));
  FakeWorker right({.worker_id = "right"}, Answer("right"));
  GatewayFixture f({&wrong, &right});
  for (int i = 0; i < 4; ++i) EXPECT_EQ(f.Generate(Prompt("abc")).Text(), "right");
  EXPECT_TRUE(wrong.requests().empty());
}

}  // namespace
}  // namespace dunlin::testing
