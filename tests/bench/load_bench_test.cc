// `dunlin bench load` against a small server in this process, and its arithmetic.
#include "tools/bench/load_bench.h"

#include <grpcpp/grpcpp.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "dunlin/v1/inference.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dunlin::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers with as many tokens as asked for, two in a message; with `shorten` one token less.
class FakeService final : public v1::InferenceService::Service {
 public:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    const auto key = context->client_metadata().find("authorization");
    const absl::MutexLock lock(&mutex);
    keys.insert(key == context->client_metadata().end() ? "" : std::string(key->second.data(), key->second.size()));
    requests.push_back(*request);
    if (refuse) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "no room");
    v1::GenerateResponse response;
    response.mutable_accepted();
    writer->Write(response);
    const uint32_t tokens = request->stopping().max_tokens() - (shorten ? 1 : 0);
    for (uint32_t sent = 0; sent < tokens;) {
      response.mutable_delta()->clear_token_ids();
      for (int i = 0; i < 2 && sent < tokens; ++i, ++sent) response.mutable_delta()->add_token_ids(7);
      writer->Write(response);
    }
    return grpc::Status::OK;
  }

  absl::Mutex mutex;
  std::vector<v1::GenerateRequest> requests;
  std::set<std::string> keys;
  bool refuse = false, shorten = false;
};

class LoadBenchTest : public ::testing::Test {
 protected:
  LoadBenchTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    options_.address = absl::StrCat("127.0.0.1:", port);
    options_.prompt_tokens = 6;
    options_.max_tokens = 5;
    options_.json = true;
  }
  ~LoadBenchTest() override { server_->Shutdown(); }

  int Run() { return RunLoadBench(options_, out_, err_); }

  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  LoadBenchOptions options_;
  std::ostringstream out_, err_;
};

TEST_F(LoadBenchTest, ABurstSendsEveryRequestAndCountsItsTokens) {
  options_.burst = 4;
  options_.shared_tokens = 3;
  options_.api_key = "secret";
  ASSERT_EQ(Run(), 0) << err_.str();
  const nlohmann::json j = nlohmann::json::parse(out_.str());
  EXPECT_EQ(j.at("requests"), 4);
  EXPECT_EQ(j.at("failed"), 0);
  EXPECT_EQ(j.at("tokens"), 20);
  EXPECT_GT(j.at("tokens_per_second").get<double>(), 0);
  EXPECT_GT(j.at("ttft_ms").at("p50").get<double>(), 0);
  EXPECT_LE(j.at("itl_ms").at("p50"), j.at("itl_ms").at("p99"));
  const absl::MutexLock lock(&service_.mutex);
  EXPECT_THAT(service_.keys, ElementsAre("Bearer secret"));
  ASSERT_EQ(service_.requests.size(), 4u);
  std::set<std::vector<uint32_t>> prompts;
  for (const v1::GenerateRequest& r : service_.requests) {
    const auto& ids = r.token_ids().ids();
    ASSERT_EQ(ids.size(), 9);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(ids[i], service_.requests[0].token_ids().ids(i));
    prompts.insert(std::vector<uint32_t>(ids.begin(), ids.end()));
    EXPECT_EQ(r.stopping().max_tokens(), 5u);
    EXPECT_TRUE(r.stopping().ignore_eos());
    EXPECT_TRUE(r.sampling().has_temperature());
    EXPECT_EQ(r.sampling().temperature(), 0.0f);
  }
  EXPECT_EQ(prompts.size(), 4u) << "prompts of a burst differ";
}

TEST_F(LoadBenchTest, AnOpenLoopSendsTheRequestsToo) {
  options_.rate = 1000;
  options_.requests = 5;
  options_.json = false;
  ASSERT_EQ(Run(), 0) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("5 requests, 0 failed, 25 tokens"));
}

TEST_F(LoadBenchTest, FailuresAreCountedAndNamed) {
  options_.burst = 2;
  service_.refuse = true;
  EXPECT_EQ(Run(), 1);
  EXPECT_EQ(nlohmann::json::parse(out_.str()).at("failed"), 2);
  EXPECT_THAT(err_.str(), HasSubstr("no room"));
}

TEST_F(LoadBenchTest, AnAnswerThatIsTooShortIsAFailure) {
  options_.burst = 1;
  service_.shorten = true;
  EXPECT_EQ(Run(), 1);
  EXPECT_THAT(err_.str(), HasSubstr("ended after 4 tokens"));
}

TEST_F(LoadBenchTest, ImpossibleOptionsAreRefusedByName) {
  const auto refused = [](const LoadBenchOptions& options) {
    std::ostringstream out, err;
    EXPECT_NE(RunLoadBench(options, out, err), 0);
    EXPECT_EQ(out.str(), "");
    return err.str();
  };
  LoadBenchOptions o = options_;
  o.address = "";
  EXPECT_THAT(refused(o), HasSubstr("--address"));
  o = options_;
  o.burst = 5000;
  EXPECT_THAT(refused(o), HasSubstr("--burst"));
  o = options_;
  o.rate = 0;
  EXPECT_THAT(refused(o), HasSubstr("--rate"));
  o = options_;
  o.prompt_tokens = 0;
  EXPECT_THAT(refused(o), HasSubstr("--prompt-tokens"));
  o = options_;
  o.ids = "/no/such/ids";
  EXPECT_THAT(refused(o), HasSubstr("/no/such/ids"));
}

TEST(LoadBenchPrompts, ShareTheBeginningAndStartApart) {
  std::vector<uint32_t> source;
  for (uint32_t i = 0; i < 300; ++i) source.push_back(i);
  LoadBenchOptions options;
  options.shared_tokens = 2;
  options.prompt_tokens = 3;
  // 296 places to begin at: 2 + number * 131 % 296.
  EXPECT_THAT(*MakePrompt(source, options, 0), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(*MakePrompt(source, options, 1), ElementsAre(0, 1, 133, 134, 135));
  EXPECT_THAT(*MakePrompt(source, options, 3), ElementsAre(0, 1, 99, 100, 101));
  options.prompt_tokens = 299;
  EXPECT_FALSE(MakePrompt(source, options, 0).ok());
}

TEST(LoadBenchReport, PercentilesRatesAndGoodput) {
  LoadBenchOptions options;
  options.ttft_limit_ms = 25;
  options.itl_limit_ms = 5;
  const std::vector<LoadRecord> records = {
      {true, 10, {1, 9}, 3},    // within both: a mean of 5
      {true, 30, {1, 1}, 3},    // the first token comes late
      {true, 20, {2, 100}, 3},  // the others do
      {false, 0, {}, 1},
  };
  const LoadReport r = Summarize(records, 2.0, options);
  EXPECT_EQ(r.requests, 4);
  EXPECT_EQ(r.failed, 1);
  EXPECT_EQ(r.tokens, 10);
  EXPECT_EQ(r.tokens_per_second, 5.0);
  EXPECT_EQ(r.requests_per_second, 1.5);
  EXPECT_EQ(r.goodput, 0.5);
  EXPECT_EQ(r.ttft_p50_ms, 20.0);
  EXPECT_EQ(r.ttft_p99_ms, 30.0);
  EXPECT_EQ(r.itl_p50_ms, 1.0);
  EXPECT_EQ(r.itl_p99_ms, 100.0);
}

}  // namespace
}  // namespace dunlin::tools
