// The worker's whole gRPC surface over loopback, with a model that obeys the test: engine, mailboxes, reactors, health,
// metrics. No sleeps: what must have happened is waited for by its own event. Longer than 500 lines because all cases
// need the same scripted server.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/prefix_hash.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "proto/config_flags.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/service/gated_runner.h"
#include "tests/worker/service/scraper.h"
#include "worker/worker_process.h"

namespace dunlin::worker {
namespace {

using ::dunlin::testing::GatedRunner;
using ::dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Health = grpc::health::v1::HealthCheckResponse;

constexpr int kEos = 99;

class WorkerServiceTest : public ::testing::Test {
 protected:
  void StartWorker(int64_t steps = std::numeric_limits<int64_t>::max() / 2, bool serve_metrics = false) {
    dunlin::v1::ServerConfig config;
    config.set_worker_metrics_port(0);
    config.set_max_num_seqs(8);
    config.set_max_num_batched_tokens(64);
    config.set_model("dir/tiny.q4.gguf");
    ApplyDefaults(kWorkerFlags, &config);
    const ModelLoader load = [this, steps](const dunlin::v1::ServerConfig& c,
                                           const ProgressCallback&) -> absl::StatusOr<LoadedModel> {
      LoadedModel loaded;
      auto runner = std::make_unique<GatedRunner>(steps);
      runner_ = runner.get();
      loaded.runner = std::move(runner);
      loaded.model.set_name(ServedModelName(c));
      loaded.model.set_vocab_size(GatedRunner::kVocab);
      loaded.end_of_generation = {kEos};
      return loaded;
    };
    ASSERT_OK_AND_ASSIGN(worker_, WorkerProcess::Start(config, {.load = load,
                                                                .device_lost = [this] { ++device_lost_; },
                                                                .serve_metrics = serve_metrics}));
    channel_ = grpc::CreateChannel(worker_->grpc_address(), grpc::InsecureChannelCredentials());
    stub_ = v1::WorkerService::NewStub(channel_);
  }
  // A runner that waits for leave would keep the engine from joining.
  void TearDown() override {
    if (runner_ != nullptr) runner_->Open();
  }

  static v1::GenerateRequest Request(uint32_t first, uint32_t max_tokens) {
    v1::GenerateRequest r;
    r.set_request_id("test");
    r.add_prompt_ids(first);
    r.set_max_tokens(max_tokens);
    r.set_num_choices(1);
    r.set_ignore_eos(true);
    r.mutable_sampling()->set_temperature(0);
    return r;
  }

  struct Answer {
    std::vector<std::vector<uint32_t>> ids;  // per choice
    std::vector<dunlin::v1::FinishReason> reasons;
    std::vector<v1::GenerateResponse> events;
    std::optional<v1::Summary> summary;
    grpc::Status status;
  };
  Answer Generate(const v1::GenerateRequest& request, grpc::ClientContext* context) {
    Answer answer;
    answer.ids.resize(request.num_choices());
    answer.reasons.resize(request.num_choices(), dunlin::v1::FINISH_REASON_UNSPECIFIED);
    const auto reader = stub_->Generate(context, request);
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
      answer.events.push_back(event);
      if (event.has_tokens()) {
        auto& ids = answer.ids.at(event.tokens().index());
        ids.insert(ids.end(), event.tokens().ids().begin(), event.tokens().ids().end());
      }
      if (event.has_finished()) answer.reasons.at(event.finished().index()) = event.finished().reason();
      if (event.has_summary()) answer.summary = event.summary();
    }
    answer.status = reader->Finish();
    return answer;
  }
  Answer Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return Generate(request, &context);
  }

  Health::ServingStatus HealthOf(const std::string& service, grpc::StatusCode* code = nullptr) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    Health response;
    const grpc::Status status = grpc::health::v1::Health::NewStub(channel_)->Check(&context, request, &response);
    if (code != nullptr) *code = status.error_code();
    return response.status();
  }

  void ExpectEveryPageFree() {
    const EngineStats stats = worker_->Snapshot();
    EXPECT_EQ(stats.held_pages, 0);
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.blank_pages + stats.cached_pages, stats.total_pages);
  }

  std::atomic<int> device_lost_{0};
  std::unique_ptr<WorkerProcess> worker_;
  GatedRunner* runner_ = nullptr;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
};

std::vector<uint32_t> Counting(uint32_t first, size_t n, uint32_t step = 1) {
  std::vector<uint32_t> ids;
  for (size_t i = 0; i < n; ++i) ids.push_back(static_cast<uint32_t>((first + step * (i + 1)) % GatedRunner::kVocab));
  return ids;
}

TEST_F(WorkerServiceTest, AStreamHasScheduledTokensFinishedSummaryInThatOrder) {
  StartWorker();
  const Answer a = Generate(Request(10, 20));
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  EXPECT_EQ(a.ids[0], Counting(10, 20));
  EXPECT_EQ(a.reasons[0], dunlin::v1::FINISH_REASON_LENGTH);
  ASSERT_GE(a.events.size(), 4u);
  EXPECT_TRUE(a.events.front().has_scheduled());
  EXPECT_TRUE(a.events[a.events.size() - 2].has_finished());
  EXPECT_TRUE(a.events.back().has_summary());
  ASSERT_TRUE(a.summary.has_value());
  EXPECT_EQ(a.summary->usage().prompt_tokens(), 1u);
  EXPECT_EQ(a.summary->usage().completion_tokens(), 20u);
  EXPECT_GT(a.summary->timing().kv_pages_peak(), 0u);
  ExpectEveryPageFree();
}

TEST_F(WorkerServiceTest, TheEndTokenAndAClientsStopTokenEndTheStream) {
  StartWorker();
  v1::GenerateRequest r = Request(95, 50);
  r.set_ignore_eos(false);
  EXPECT_EQ(Generate(r).reasons[0], dunlin::v1::FINISH_REASON_EOS);
  r = Request(10, 50);
  r.add_stop_token_ids(13);
  const Answer a = Generate(r);
  EXPECT_EQ(a.reasons[0], dunlin::v1::FINISH_REASON_STOP);
  EXPECT_EQ(a.events[a.events.size() - 2].finished().stop_token_id(), 13u);
}

TEST_F(WorkerServiceTest, ThreeChoicesComeInOneStreamWithSeedsThatFollow) {
  StartWorker();
  v1::GenerateRequest r = Request(10, 6);
  r.set_num_choices(3);
  r.mutable_sampling()->set_temperature(1);
  r.mutable_sampling()->set_seed(5);
  const Answer a = Generate(r);
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  EXPECT_EQ(a.ids[0], Counting(10, 6, 6));
  EXPECT_EQ(a.ids[1], Counting(10, 6, 7));
  EXPECT_EQ(a.ids[2], Counting(10, 6, 8));
  int scheduled = 0, finished = 0, summaries = 0;
  for (const v1::GenerateResponse& e : a.events) {
    scheduled += e.has_scheduled() ? 1 : 0;
    finished += e.has_finished() ? 1 : 0;
    summaries += e.has_summary() ? 1 : 0;
  }
  EXPECT_EQ(scheduled, 1);
  EXPECT_EQ(finished, 3);
  EXPECT_EQ(summaries, 1);
  EXPECT_EQ(a.summary->usage().completion_tokens(), 18u);
  // Choice 0 is what the seed gives alone.
  r.set_num_choices(1);
  EXPECT_EQ(Generate(r).ids[0], a.ids[0]);
}

TEST_F(WorkerServiceTest, LogprobsOfPromptAndTokensArrive) {
  StartWorker();
  v1::GenerateRequest r = Request(10, 3);
  r.add_prompt_ids(20);
  r.add_prompt_ids(30);
  r.set_logprobs(2);
  r.set_prompt_logprobs(1);
  r.set_num_choices(2);
  const Answer a = Generate(r);
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  int prompt = 0;
  for (const v1::GenerateResponse& e : a.events) {
    prompt += e.prompt().logprobs_size();
    if (!e.has_tokens()) continue;
    EXPECT_EQ(prompt, 2) << "the prompt comes before any choice's tokens";
    ASSERT_EQ(e.tokens().logprobs_size(), e.tokens().ids_size());
    EXPECT_EQ(e.tokens().logprobs(0).top_ids_size(), 2);
    EXPECT_EQ(e.tokens().logprobs(0).logprob(), -0.5f);
  }
  EXPECT_EQ(prompt, 2) << "one record per prompt token but the first";
}

TEST_F(WorkerServiceTest, CancellingFreesThePages) {
  StartWorker(/*steps=*/5);
  grpc::ClientContext context;
  v1::GenerateRequest r = Request(1, 4000);
  r.set_num_choices(2);
  const auto reader = stub_->Generate(&context, r);
  v1::GenerateResponse event;
  do {
    ASSERT_TRUE(reader->Read(&event));
  } while (!event.has_tokens());
  EXPECT_EQ(worker_->open_streams(), 1);
  context.TryCancel();
  runner_->Open();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(worker_->WaitDrained(absl::Seconds(60)));
  ExpectEveryPageFree();
}

TEST_F(WorkerServiceTest, ManyCancelledAtEveryMomentLeaveNothingBehind) {
  StartWorker();
  for (int events = 0; events < 12; ++events) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, Request(1, 4000));
    v1::GenerateResponse event;
    for (int i = 0; i < events && reader->Read(&event); ++i) {
    }
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  ASSERT_TRUE(worker_->WaitDrained(absl::Seconds(60)));
  ExpectEveryPageFree();
  EXPECT_TRUE(Generate(Request(1, 3)).status.ok());
}

TEST_F(WorkerServiceTest, ThePassedDeadlineIsItsStatusAndMaxTimeIsNot) {
  StartWorker(/*steps=*/2);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(30));
  v1::GenerateRequest r = Request(1, 4000);
  std::thread opener([this, &context] {
    // The engine looks at deadlines between steps.
    while (std::chrono::system_clock::now() < context.deadline()) std::this_thread::yield();
    runner_->Open();
  });
  EXPECT_EQ(Generate(r, &context).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  opener.join();
  ASSERT_TRUE(worker_->WaitDrained(absl::Seconds(60)));
  ExpectEveryPageFree();

  r.mutable_max_time()->set_nanos(1);
  const Answer timed = Generate(r);
  EXPECT_TRUE(timed.status.ok()) << timed.status.error_message();
  EXPECT_EQ(timed.reasons[0], dunlin::v1::FINISH_REASON_DEADLINE);
}

TEST_F(WorkerServiceTest, AReaderThatNeverReadsDelaysNobody) {
  StartWorker();
  grpc::ClientContext slow_context;
  v1::GenerateRequest slow = Request(1, 4000);
  slow.set_logprobs(20);
  const auto slow_reader = stub_->Generate(&slow_context, slow);
  for (int i = 0; i < 5; ++i) {
    const Answer a = Generate(Request(10, 50));
    ASSERT_TRUE(a.status.ok()) << a.status.error_message();
    EXPECT_EQ(a.ids[0], Counting(10, 50));
  }
  // What it left unread is still all there.
  v1::GenerateResponse event;
  size_t tokens = 0;
  while (slow_reader->Read(&event)) tokens += static_cast<size_t>(event.tokens().ids_size());
  EXPECT_TRUE(slow_reader->Finish().ok());
  EXPECT_EQ(tokens, 4000u);
}

TEST_F(WorkerServiceTest, TheLoadBringsCacheEventsWhenAskedFromWhereTheCallerIs) {
  StartWorker();
  const auto load = [this](const v1::GetLoadRequest& request) {
    grpc::ClientContext context;
    v1::GetLoadResponse response;
    EXPECT_TRUE(stub_->GetLoad(&context, request, &response).ok());
    return response;
  };
  EXPECT_FALSE(load({}).has_cache());
  v1::GetLoadRequest request;
  request.set_cache_events(true);
  const dunlin::v1::CacheDelta first = load(request).cache();
  EXPECT_TRUE(first.snapshot());
  EXPECT_NE(first.epoch(), 0u);
  request.set_cache_epoch(first.epoch());
  request.set_cache_sequence(first.last_sequence());
  const dunlin::v1::CacheDelta next = load(request).cache();
  EXPECT_FALSE(next.snapshot());
  EXPECT_EQ(next.first_sequence(), first.last_sequence() + 1);
  request.set_cache_epoch(first.epoch() + 2);
  EXPECT_TRUE(load(request).cache().snapshot()) << "of another process";
}

// A prompt of five full pages.
v1::GenerateRequest PagesOf(uint32_t first, const std::string& cache_namespace, dunlin::v1::Cache::Mode mode) {
  v1::GenerateRequest r;
  for (uint32_t i = 0; i < 5 * GatedRunner::kPageTokens; ++i) r.add_prompt_ids((first + i) % GatedRunner::kVocab);
  r.set_max_tokens(1);
  r.set_num_choices(1);
  r.set_ignore_eos(true);
  r.set_cache_namespace(cache_namespace);
  r.set_cache_mode(mode);
  return r;
}

// What a router would call the prefixes of such a prompt.
std::set<uint64_t> PrefixesOf(const v1::GenerateRequest& r) {
  std::set<uint64_t> prefixes;
  uint64_t prefix = RootPrefix(r.cache_namespace());
  std::vector<int32_t> page;
  for (const uint32_t id : r.prompt_ids()) {
    page.push_back(static_cast<int32_t>(id));
    if (page.size() < GatedRunner::kPageTokens) continue;
    prefix = ExtendPrefix(prefix, page);
    prefixes.insert(prefix);
    page.clear();
  }
  return prefixes;
}

TEST_F(WorkerServiceTest, PrefixesAreSharedWithinANamespaceAloneAndTheLoadNamesThem) {
  using dunlin::v1::Cache;
  StartWorker();
  const v1::GenerateRequest ours = PagesOf(3, "ours", Cache::MODE_USE);
  const auto cached = [this](const v1::GenerateRequest& r) {
    const Answer a = Generate(r);
    EXPECT_TRUE(a.status.ok()) << a.status.error_message();
    return a.events.front().scheduled().cached_prompt_tokens();
  };
  const auto hashes = [this] {
    grpc::ClientContext context;
    v1::GetLoadRequest request;
    request.set_cache_events(true);
    v1::GetLoadResponse response;
    EXPECT_TRUE(stub_->GetLoad(&context, request, &response).ok());
    EXPECT_TRUE(response.cache().snapshot() && response.cache().offset() == 0);
    return response.cache();
  };
  // The log is told after the stream's end; each look is one answer of the worker.
  const auto await = [&hashes](const std::set<uint64_t>& wanted) {
    for (std::set<uint64_t> seen = {1}; seen != wanted;) {
      const dunlin::v1::CacheDelta delta = hashes();
      seen = {delta.added().begin(), delta.added().end()};
    }
  };
  EXPECT_EQ(cached(ours), 0u);
  EXPECT_EQ(cached(ours), 5u * GatedRunner::kPageTokens - 1) << "all but the last token";
  EXPECT_EQ(cached(PagesOf(3, "theirs", Cache::MODE_BYPASS)), 0u);
  EXPECT_EQ(cached(PagesOf(3, "theirs", Cache::MODE_READ_ONLY)), 0u);
  EXPECT_EQ(cached(PagesOf(3, "ours", Cache::MODE_BYPASS)), 0u);
  EXPECT_GT(cached(PagesOf(3, "ours", Cache::MODE_READ_ONLY)), 0u);
  EXPECT_EQ(cached(PagesOf(3, "theirs", Cache::MODE_USE)), 0u) << "and those that only read left nothing";
  std::set<uint64_t> wanted = PrefixesOf(ours);
  wanted.merge(PrefixesOf(PagesOf(3, "theirs", Cache::MODE_USE)));
  ASSERT_EQ(wanted.size(), 10u);
  await(wanted);
  ExpectEveryPageFree();
  EXPECT_GT(worker_->Snapshot().prefix_hit_tokens, 0u);

  grpc::ClientContext context;
  v1::FlushCacheResponse flushed;
  ASSERT_TRUE(stub_->FlushCache(&context, v1::FlushCacheRequest(), &flushed).ok());
  EXPECT_EQ(flushed.freed_pages(), 10u);
  EXPECT_EQ(worker_->Snapshot().cached_pages, 0);
  EXPECT_EQ(cached(PagesOf(3, "ours", Cache::MODE_READ_ONLY)), 0u);
  await({});
}

TEST_F(WorkerServiceTest, BadRequestsAreRefusedWithTheirField) {
  StartWorker();
  v1::GenerateRequest r = Request(1, 5);
  r.set_prompt_ids(0, GatedRunner::kVocab);
  Answer a = Generate(r);
  EXPECT_EQ(a.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(a.status.error_message(), HasSubstr("token_ids.ids[0]"));
  r = Request(1, 5);
  r.clear_prompt_ids();
  EXPECT_EQ(Generate(r).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  r = Request(1, 5);
  for (int i = 0; i < GatedRunner::kMaxModelLen; ++i) r.add_prompt_ids(1);
  EXPECT_EQ(Generate(r).status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(worker_->Snapshot().prompt_tokens, 0u) << "none of them reached the engine";
}

TEST_F(WorkerServiceTest, ALongPromptReportsItsProgress) {
  StartWorker(/*steps=*/0);
  v1::GenerateRequest r = Request(1, 1);
  while (r.prompt_ids_size() < 1000) r.add_prompt_ids(2);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, r);
  std::vector<uint32_t> progress;
  v1::GenerateResponse event;
  // The second step waits until the first one's report was read, so that nothing can be merged with it.
  runner_->Allow(1);
  while (progress.empty() && reader->Read(&event)) {
    if (event.has_progress()) progress.push_back(event.progress().prefill_done_tokens());
  }
  runner_->Open();
  while (reader->Read(&event)) {
    if (event.has_progress()) progress.push_back(event.progress().prefill_done_tokens());
  }
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_FALSE(progress.empty());
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  EXPECT_LE(progress.back(), 1000u);
}

TEST_F(WorkerServiceTest, HealthAndAdmissionFollowTheWorkersState) {
  StartWorker();
  EXPECT_EQ(HealthOf(""), Health::SERVING);
  EXPECT_EQ(HealthOf("dunlin.worker.v1.WorkerService"), Health::SERVING);
  grpc::StatusCode code = grpc::StatusCode::OK;
  HealthOf("no.such.Service", &code);
  EXPECT_EQ(code, grpc::StatusCode::NOT_FOUND);
  worker_->BeginDrain();
  EXPECT_EQ(HealthOf(""), Health::NOT_SERVING);
  EXPECT_EQ(HealthOf("dunlin.worker.v1.WorkerService"), Health::NOT_SERVING);
  EXPECT_EQ(Generate(Request(1, 1)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerServiceTest, ADrainLetsOpenStreamsEnd) {
  StartWorker(/*steps=*/3);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request(1, 10));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  worker_->BeginDrain();
  EXPECT_FALSE(worker_->WaitDrained(absl::ZeroDuration()));
  runner_->Open();
  size_t tokens = static_cast<size_t>(event.tokens().ids_size());
  while (reader->Read(&event)) tokens += static_cast<size_t>(event.tokens().ids_size());
  EXPECT_EQ(tokens, 10u);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(worker_->WaitDrained(absl::Seconds(60)));
}

TEST_F(WorkerServiceTest, ALostDeviceEndsStreamsAsUnavailable) {
  StartWorker(/*steps=*/3);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request(1, 1000));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  runner_->Lose();
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(worker_->Snapshot().lost_device);
  EXPECT_EQ(device_lost_, 1) << "told once, before the streams end";
  EXPECT_EQ(Generate(Request(1, 1)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerServiceTest, InfoLoadAndFlushAnswer) {
  StartWorker();
  ASSERT_TRUE(Generate(Request(1, 20)).status.ok());
  grpc::ClientContext info_context;
  v1::GetInfoResponse info;
  ASSERT_TRUE(stub_->GetInfo(&info_context, {}, &info).ok());
  EXPECT_EQ(info.worker_id(), "worker0");
  EXPECT_EQ(info.served_model_name(), "tiny.q4");
  EXPECT_TRUE(info.worker().ready());
  EXPECT_EQ(info.worker().device(), "fake");
  EXPECT_EQ(info.worker().max_num_seqs(), 8u);
  EXPECT_EQ(info.model().vocab_size(), 100u);
  grpc::ClientContext load_context;
  v1::GetLoadResponse load;
  ASSERT_TRUE(stub_->GetLoad(&load_context, {}, &load).ok());
  EXPECT_EQ(load.load().total_pages(), 1024u);
  EXPECT_GT(load.load().steps(), 0u);
  EXPECT_GT(load.load().memory_bandwidth_bytes_per_second(), 0.0);
  const uint32_t cached = load.load().cached_pages();
  grpc::ClientContext flush_context;
  v1::FlushCacheResponse flushed;
  ASSERT_TRUE(stub_->FlushCache(&flush_context, {}, &flushed).ok());
  EXPECT_EQ(flushed.freed_pages(), cached);
}

TEST_F(WorkerServiceTest, MetricsAreServedOverHttpAndCountWhatRan) {
  StartWorker(std::numeric_limits<int64_t>::max() / 2, /*serve_metrics=*/true);
  ASSERT_TRUE(Generate(Request(1, 20)).status.ok());
  const std::string page = dunlin::testing::HttpGet(worker_->metrics_address(), "/metrics");
  EXPECT_THAT(page, AllOf(HasSubstr("200 OK"), HasSubstr("vllm:generation_tokens_total{model_name=\"tiny.q4\"} 20"),
                          HasSubstr("dunlin_model_info{model=\"tiny.q4\""),
                          HasSubstr("vllm:time_to_first_token_seconds_count{model_name=\"tiny.q4\"} 1"),
                          HasSubstr("dunlin_kv_pages{state=\"held\"} 0")));
}

TEST_F(WorkerServiceTest, ATakenAddressFailsTheStartAndAnotherFormIsRefused) {
  StartWorker();
  EXPECT_THAT(WorkerServer::Start(worker_->grpc_address(), "w").status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(worker_->grpc_address())));
  for (const char* listen : {"", "nonsense", "host:", ":1", "host:70000", "unix:"}) {
    EXPECT_THAT(WorkerServer::Start(listen, "w").status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--listen")))
        << listen;
  }
}

TEST(WorkerServer, BeforeItIsReadyItListensAndRefuses) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/worker_", getpid(), ".sock");
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<WorkerServer> server, WorkerServer::Start("unix:" + path, "w"));
  EXPECT_EQ(server->address(), "unix:" + path);
  const auto channel = grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials());
  grpc::ClientContext health_context;
  Health health;
  ASSERT_TRUE(grpc::health::v1::Health::NewStub(channel)->Check(&health_context, {}, &health).ok());
  EXPECT_EQ(health.status(), Health::NOT_SERVING);
  const auto stub = v1::WorkerService::NewStub(channel);
  grpc::ClientContext info_context;
  v1::GetInfoResponse info;
  ASSERT_TRUE(stub->GetInfo(&info_context, {}, &info).ok());
  EXPECT_EQ(info.worker_id(), "w");
  EXPECT_FALSE(info.worker().ready());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, {});
  v1::GenerateResponse event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("loading"));
}

TEST(WorkerProcess, SettingsThatCannotBeAreRefusedByTheirFlag) {
  dunlin::v1::ServerConfig config;
  config.set_worker_metrics_port(0);
  ApplyDefaults(kWorkerFlags, &config);
  EXPECT_THAT(WorkerProcess::Start(config, {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--model")));
  config.set_model("/nowhere/model.gguf");
  EXPECT_THAT(WorkerProcess::Start(config, {}).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/model.gguf")));
  config.set_device("cuda");
  setenv("CUDA_VISIBLE_DEVICES", "", 1);  // whatever this machine has
  EXPECT_THAT(WorkerProcess::Start(config, {}).status().ToString(), HasSubstr("--device cuda: "));
  unsetenv("CUDA_VISIBLE_DEVICES");
}

}  // namespace
}  // namespace dunlin::worker
