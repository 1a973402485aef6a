// Health, operators' calls, tokenisation calls, draining and metrics of a real gateway.
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/support/status.h"
#include "gtest/gtest.h"
#include "proto/status_map.h"
#include "tests/gateway/fake_worker.h"
#include "tests/gateway/gateway_fixture.h"
#include "tests/support/status_matchers.h"

namespace dunlin::testing {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

FakeScript UntilCancelled() {
  return [](FakeCall* call) {
    call->Scheduled();
    call->Tokens("ab");
    call->WaitUntilCancelled();
    return grpc::Status::CANCELLED;
  };
}

HealthCheckResponse::ServingStatus Check(GatewayFixture* f, const std::string& service, grpc::StatusCode* code) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  *code = f->health->Check(&context, request, &response).error_code();
  return response.status();
}

TEST(GatewayHealth, EveryNameFollowsTheWorkers) {
  FakeWorker worker({.serving = false}, Answer("x"));
  GatewayFixture f({&worker}, /*wait=*/false);
  grpc::StatusCode code;
  for (const char* name : {"", "dunlin.v1.InferenceService", "tiny"}) {
    EXPECT_EQ(Check(&f, name, &code), HealthCheckResponse::NOT_SERVING) << name;
  }
  worker.SetServing(true);
  for (const char* name : {"", "dunlin.v1.InferenceService", "tiny"}) {
    f.AwaitHealth(true, name);
    EXPECT_EQ(Check(&f, name, &code), HealthCheckResponse::SERVING) << name;
  }
  worker.SetServing(false);
  f.AwaitHealth(false);
  Check(&f, "no-such-service", &code);
  EXPECT_EQ(code, grpc::StatusCode::NOT_FOUND);
}

TEST(GatewayHealth, WatchingAnUnknownNameGoesOnUntilItIsCancelled) {
  GatewayFixture f({}, /*wait=*/false);
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("no-such-service");
  const auto reader = f.health->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(GatewayControl, AbortEndsAStreamInGoodOrder) {
  FakeWorker worker({}, UntilCancelled());
  GatewayFixture f({&worker});
  v1::GenerateRequest request = Prompt("abc");
  request.set_request_id("victim");
  grpc::ClientContext context;
  const auto reader = f.stub->Generate(&context, request);
  GatewayFixture::Stream stream;
  v1::GenerateResponse event;
  while (stream.Text() != "ab" && reader->Read(&event)) stream.events.push_back(event);
  for (const bool found : {true, false}) {
    grpc::ClientContext abort_context;
    v1::AbortRequest abort;
    abort.set_request_id(found ? "victim" : "nobody");
    v1::AbortResponse response;
    ASSERT_TRUE(f.control->Abort(&abort_context, abort, &response).ok());
    EXPECT_EQ(response.found(), found);
  }
  while (reader->Read(&event)) stream.events.push_back(event);
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_NE(stream.finished(), nullptr);
  EXPECT_EQ(stream.finished()->reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_NE(stream.summary(), nullptr);
}

TEST(GatewayControl, DrainLetsOpenStreamsFinishAndRefusesNewOnes) {
  FakeWorker worker({}, nullptr);
  Mutex mu;
  CondVar changed;
  bool go_on = false;
  worker.SetScript([&](FakeCall* call) {
    call->Scheduled();
    MutexLock lock(&mu);
    while (!go_on) changed.Wait(&mu);
    return Answer("done")(call);
  });
  GatewayFixture f({&worker});
  grpc::ClientContext context;
  const auto reader = f.stub->Generate(&context, Prompt("abc"));
  GatewayFixture::Stream stream;
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  grpc::ClientContext drain_context;
  v1::DrainResponse drained;
  ASSERT_TRUE(f.control->Drain(&drain_context, v1::DrainRequest(), &drained).ok());
  f.AwaitHealth(false);
  const auto refused = f.Generate(Prompt("abc"));
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetErrorInfo(refused.status)->reason, "DRAINING");
  {
    MutexLock lock(&mu);
    go_on = true;
    changed.SignalAll();
  }
  while (reader->Read(&event)) stream.events.push_back(event);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(stream.Text(), "done");
  EXPECT_TRUE(f.gateway->Drain(absl::Seconds(10)));
  grpc::ClientContext undrain_context;
  v1::UndrainResponse undrained;
  ASSERT_TRUE(f.control->Undrain(&undrain_context, v1::UndrainRequest(), &undrained).ok());
  f.AwaitHealth(true);
  EXPECT_OK(f.Generate(Prompt("abc")).status);
}

TEST(GatewayControl, ADrainWhoseTimeIsUpEndsStreamsWithTheirPosition) {
  FakeWorker worker({}, UntilCancelled());
  GatewayFixture f({&worker});
  grpc::ClientContext context;
  const auto reader = f.stub->Generate(&context, Prompt("abc"));
  GatewayFixture::Stream stream;
  v1::GenerateResponse event;
  while (stream.Text() != "ab" && reader->Read(&event)) stream.events.push_back(event);
  std::thread drain([&] { EXPECT_FALSE(f.gateway->Drain(absl::ZeroDuration())); });
  while (reader->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  drain.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetErrorInfo(status)->reason, "DRAINING");
  EXPECT_EQ(GetErrorInfo(status)->metadata.at("position"), "2");
}

TEST(GatewayControl, InfoLoadAndFlushDescribeTheWorkers) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker}, true, [](gateway::GatewayOptions* options) { options->version = "9.9"; });
  grpc::ClientContext info_context;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(f.control->GetServerInfo(&info_context, v1::GetServerInfoRequest(), &info).ok());
  EXPECT_EQ(info.version(), "9.9");
  ASSERT_EQ(info.workers_size(), 1);
  EXPECT_EQ(info.workers(0).worker_id(), "worker0");
  EXPECT_EQ(info.workers(0).address(), worker.address());
  EXPECT_TRUE(info.workers(0).ready());
  ASSERT_EQ(info.models_size(), 1);
  EXPECT_EQ(info.models(0).ready_workers(), 1u);
  grpc::ClientContext watch_context;
  const auto watch = f.control->WatchLoad(&watch_context, v1::WatchLoadRequest());
  v1::WatchLoadResponse load;
  while (watch->Read(&load) && load.load().workers(0).total_pages() != 64) {
  }
  EXPECT_EQ(load.load().workers(0).total_pages(), 64u);
  EXPECT_EQ(load.load().active_streams(), 0u);
  watch_context.TryCancel();
  watch->Finish();
  grpc::ClientContext flush_context;
  v1::FlushCacheResponse flushed;
  ASSERT_TRUE(f.control->FlushCache(&flush_context, v1::FlushCacheRequest(), &flushed).ok());
  EXPECT_EQ(flushed.freed_pages(), 5u);
  EXPECT_EQ(worker.flushes(), 1);
  grpc::ClientContext reload_context;
  v1::ReloadConfigResponse reloaded;
  EXPECT_EQ(f.control->ReloadConfig(&reload_context, v1::ReloadConfigRequest(), &reloaded).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

// A client that follows one worker's cache through WatchLoad as the messages say.
class CacheFollower {
 public:
  CacheFollower(GatewayFixture* f, absl::Duration interval) {
    v1::WatchLoadRequest request;
    request.mutable_interval()->set_seconds(absl::ToInt64Seconds(interval));
    request.mutable_interval()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(interval % absl::Seconds(1))));
    reader_ = f->control->WatchLoad(&context_, request);
  }
  ~CacheFollower() {
    context_.TryCancel();
    reader_->Finish();
  }
  // Reads messages until the cache is `wanted`; the last one's delta.
  v1::CacheDelta Await(const std::set<uint64_t>& wanted) {
    v1::WatchLoadResponse response;
    while (reader_->Read(&response)) {
      const v1::CacheDelta& delta = response.load().workers(0).cache();
      if (delta.snapshot()) {
        if (delta.offset() == 0) present_.clear();
      } else {
        EXPECT_EQ(delta.epoch(), epoch_);
        EXPECT_EQ(delta.first_sequence(), sequence_ + 1);
      }
      epoch_ = delta.epoch();
      sequence_ = delta.last_sequence();
      for (const uint64_t h : delta.removed()) EXPECT_EQ(present_.erase(h), 1u);
      for (const uint64_t h : delta.added()) EXPECT_TRUE(present_.insert(h).second);
      if (present_ == wanted) return delta;
    }
    ADD_FAILURE() << "the stream ended";
    return {};
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchLoadResponse>> reader_;
  std::set<uint64_t> present_;
  uint64_t epoch_ = 0;
  uint64_t sequence_ = 0;
};

TEST(GatewayControl, WatchLoadBringsASnapshotOfTheWorkersCacheAndThenItsEvents) {
  // The worker answers in small parts, so that its snapshot takes many of them.
  FakeWorker worker({.hashes_per_answer = 7}, Answer("x"));
  std::set<uint64_t> model;
  std::vector<uint64_t> many;
  for (uint64_t h = 1; h <= 100; ++h) many.push_back(h * h);
  model.insert(many.begin(), many.end());
  worker.cache_events()->Append(many, {});
  GatewayFixture f({&worker});
  CacheFollower follower(&f, absl::Milliseconds(50));
  follower.Await(model);
  worker.cache_events()->Append(std::vector<uint64_t>{5}, std::vector<uint64_t>{1, 4});
  model.erase(1);
  model.erase(4);
  model.insert(5);
  EXPECT_FALSE(follower.Await(model).snapshot()) << "the events alone";
  // The worker's process was replaced: another epoch, another cache.
  worker.cache_events()->Reset();
  worker.cache_events()->Append(std::vector<uint64_t>{77}, {});
  EXPECT_TRUE(follower.Await({77}).snapshot());
  // GetLoad brings the cache when asked.
  for (const bool include : {false, true}) {
    grpc::ClientContext context;
    v1::GetLoadRequest request;
    request.set_include_cache(include);
    v1::GetLoadResponse load;
    ASSERT_TRUE(f.control->GetLoad(&context, request, &load).ok());
    ASSERT_EQ(load.workers(0).has_cache(), include);
    EXPECT_EQ(load.workers(0).reserved_pages(), 3u);
    EXPECT_EQ(load.workers(0).pinned_pages(), 2u);
    if (!include) continue;
    EXPECT_TRUE(load.workers(0).cache().snapshot());
    ASSERT_EQ(load.workers(0).cache().added_size(), 1);
    EXPECT_EQ(load.workers(0).cache().added(0), 77u);
  }
}

TEST(GatewayControl, AnotherReplicaFollowsTheSameWorker) {
  FakeWorker worker({.hashes_per_answer = 3}, Answer("x"));
  worker.cache_events()->Append(std::vector<uint64_t>{1, 2, 3, 4, 5, 6, 7, 8}, {});
  GatewayFixture first({&worker});
  GatewayFixture second({&worker});
  CacheFollower a(&first, absl::Milliseconds(50));
  CacheFollower b(&second, absl::Milliseconds(50));
  a.Await({1, 2, 3, 4, 5, 6, 7, 8});
  b.Await({1, 2, 3, 4, 5, 6, 7, 8});
}

TEST(GatewayText, TokenizeAndDetokenizeAreInverse) {
  GatewayFixture f({}, /*wait=*/false);  // needs no worker
  v1::TokenizeRequest request;
  request.set_text("naïve <|im_end|> 😀");
  grpc::ClientContext context;
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(f.stub->Tokenize(&context, request, &tokens).ok());
  EXPECT_EQ(static_cast<int>(tokens.count()), tokens.token_ids_size());
  std::string joined;
  for (const std::string& piece : tokens.pieces()) joined += piece;
  EXPECT_EQ(joined, request.text());
  for (const bool skip : {false, true}) {
    v1::DetokenizeRequest back;
    *back.mutable_token_ids() = tokens.token_ids();
    back.set_skip_special(skip);
    grpc::ClientContext back_context;
    v1::DetokenizeResponse text;
    ASSERT_TRUE(f.stub->Detokenize(&back_context, back, &text).ok());
    EXPECT_EQ(text.text(), skip ? "naïve  😀" : "naïve <|im_end|> 😀");
    EXPECT_FALSE(text.lossy());
  }
  v1::DetokenizeRequest bad;
  bad.add_token_ids(1'000'000);
  grpc::ClientContext bad_context;
  v1::DetokenizeResponse text;
  EXPECT_EQ(f.stub->Detokenize(&bad_context, bad, &text).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST(GatewayText, ListModelsSaysWhatIsServed) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker});
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  ASSERT_TRUE(f.stub->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).name(), "tiny");
  EXPECT_EQ(response.models(0).architecture(), "llama");
  EXPECT_EQ(response.models(0).quantization(), "Q4_1");
  EXPECT_EQ(response.models(0).context_tokens(), 256u);
  EXPECT_GT(response.models(0).vocab_size(), 250u);
  EXPECT_EQ(response.models(0).ready_workers(), 1u);
}

TEST(GatewayMetrics, EveryFamilyIsThereAndMovesWithRequests) {
  FakeWorker worker({}, Answer("hello"));
  GatewayFixture f({&worker});
  for (const char* family :
       {"dunlin_requests_total counter", "dunlin_active_streams gauge", "dunlin_queued_requests gauge",
        "dunlin_rejected_total counter", "dunlin_time_to_first_token_seconds histogram",
        "dunlin_inter_token_latency_seconds histogram", "dunlin_e2e_request_latency_seconds histogram",
        "dunlin_prompt_tokens_total counter", "dunlin_generation_tokens_total counter",
        "dunlin_migrations_total counter", "dunlin_worker_up gauge", "dunlin_routing_decisions_total counter",
        "dunlin_client_stall_seconds_total counter", "dunlin_build_info gauge"}) {
    EXPECT_TRUE(f.HasMetric(absl::StrCat("# TYPE ", family))) << family;
  }
  EXPECT_TRUE(f.HasMetric("dunlin_requests_total{code=\"RESOURCE_EXHAUSTED\",model=\"tiny\"} 0"));
  EXPECT_TRUE(f.HasMetric("dunlin_migrations_total{outcome=\"continued\"} 0"));
  EXPECT_TRUE(f.HasMetric("dunlin_worker_up{worker=\"worker0\"} 1"));
  ASSERT_OK(f.Generate(Prompt("abc")).status);
  f.AwaitMetric("dunlin_requests_total{code=\"OK\",model=\"tiny\"} 1");
  EXPECT_TRUE(f.HasMetric("dunlin_generation_tokens_total 5"));
  EXPECT_TRUE(f.HasMetric("dunlin_time_to_first_token_seconds_count 1"));
  EXPECT_TRUE(f.HasMetric("dunlin_inter_token_latency_seconds_count 4"));
  EXPECT_TRUE(f.HasMetric("dunlin_routing_decisions_total{reason=\"only_ready\"} 1"));
}

TEST(GatewayListeners, APortInUseIsAnErrorThatNamesIt) {
  GatewayFixture f({}, /*wait=*/false);
  gateway::GatewayOptions options;
  options.model_path = f.model_file.path();
  const std::string address = f.gateway->grpc_address();
  options.grpc_port = static_cast<uint32_t>(std::stoi(address.substr(address.rfind(':') + 1)));
  EXPECT_THAT(gateway::Gateway::Create(options),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr(address)));
}

TEST(GatewayListeners, AMissingModelFileIsNamed) {
  gateway::GatewayOptions options;
  options.model_path = "/no/such/model.gguf";
  EXPECT_THAT(gateway::Gateway::Create(options),
              StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr("/no/such/model.gguf")));
}

}  // namespace
}  // namespace dunlin::testing
