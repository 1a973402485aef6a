// API keys, tenants and priorities as clients of a real gateway meet them.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "proto/status_map.h"
#include "tests/gateway/fake_worker.h"
#include "tests/gateway/gateway_fixture.h"
#include "tests/support/status_matchers.h"

namespace dunlin::testing {
namespace {

using Metadata = std::vector<std::pair<std::string, std::string>>;

void Add(const Metadata& metadata, grpc::ClientContext* context) {
  for (const auto& [name, value] : metadata) context->AddMetadata(name, value);
}

absl::Status Generate(GatewayFixture* f, const Metadata& metadata, const std::string& salt = "") {
  grpc::ClientContext context;
  Add(metadata, &context);
  v1::GenerateRequest request = Prompt("abc");
  request.mutable_cache()->set_salt(salt);
  const auto reader = f->stub->Generate(&context, request);
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  return FromGrpcStatus(reader->Finish());
}

std::function<void(gateway::GatewayOptions*)> Keys(std::vector<std::string> keys, bool trust = false) {
  return [keys, trust](gateway::GatewayOptions* options) {
    options->api_keys = keys;
    options->trust_tenant_header = trust;
  };
}

TEST(GatewayTenants, WithKeysEveryPublicCallNeedsOneAndHealthAndAdminDoNot) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker}, true, Keys({"key-one", "key-two"}));  // waits for health, without a key
  for (const Metadata& metadata :
       {Metadata{}, Metadata{{"authorization", "Bearer wrong"}}, Metadata{{"x-dunlin-tenant", "key-one"}},
        Metadata{{"authorization", "Bearer key-one"}, {"authorization", "Bearer key-two"}}}) {
    EXPECT_THAT(Generate(&f, metadata), StatusIs(absl::StatusCode::kUnauthenticated, ::testing::Not("")));
  }
  for (const bool with_key : {false, true}) {
    const auto expected = with_key ? grpc::StatusCode::OK : grpc::StatusCode::UNAUTHENTICATED;
    const auto call = [&](auto method, const auto& request, auto response) {
      grpc::ClientContext context;
      if (with_key) Add({{"authorization", "Bearer key-two"}}, &context);
      return (f.stub.get()->*method)(&context, request, &response).error_code();
    };
    using Stub = v1::InferenceService::Stub;
    v1::GenerateUnaryRequest unary;
    *unary.mutable_request() = Prompt("abc");
    EXPECT_EQ(call(&Stub::GenerateUnary, unary, v1::GenerateUnaryResponse()), expected);
    EXPECT_EQ(call(&Stub::Tokenize, v1::TokenizeRequest(), v1::TokenizeResponse()), expected);
    EXPECT_EQ(call(&Stub::Detokenize, v1::DetokenizeRequest(), v1::DetokenizeResponse()), expected);
    EXPECT_EQ(call(&Stub::ListModels, v1::ListModelsRequest(), v1::ListModelsResponse()), expected);
    EXPECT_EQ(call(&Stub::Embed, v1::EmbedRequest(), v1::EmbedResponse()),
              with_key ? grpc::StatusCode::UNIMPLEMENTED : expected);
  }
  EXPECT_EQ(worker.requests().size(), 1u) << "only the authenticated call reached the worker";
  grpc::ClientContext admin;
  v1::GetLoadResponse load;
  EXPECT_TRUE(f.control->GetLoad(&admin, v1::GetLoadRequest(), &load).ok());
  f.AwaitMetric("dunlin_rejected_total{reason=\"unauthenticated\"} 5");
  f.AwaitMetric("dunlin_requests_total{code=\"UNAUTHENTICATED\",model=\"tiny\"} 5");
}

TEST(GatewayTenants, TheWorkerLearnsTenantPriorityAndANamespaceThatNoOtherTenantCanName) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture f({&worker}, true, Keys({"key-one", "key-two"}));
  const Metadata one = {{"authorization", "Bearer key-one"}, {"x-dunlin-priority", "2"}};
  const Metadata two = {{"authorization", "Bearer key-two"}, {"x-dunlin-priority", "-1"}};
  ASSERT_OK(Generate(&f, one));
  ASSERT_OK(Generate(&f, two));
  ASSERT_OK(Generate(&f, one, "salt"));
  const auto seen = worker.requests();
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].priority(), 2);
  EXPECT_EQ(seen[1].priority(), -1);
  EXPECT_NE(seen[0].tenant(), seen[1].tenant());
  EXPECT_EQ(seen[0].tenant(), seen[2].tenant());
  EXPECT_THAT(seen[0].tenant() + seen[0].cache_namespace(), ::testing::Not(::testing::HasSubstr("key")));
  EXPECT_NE(seen[0].cache_namespace(), seen[1].cache_namespace());
  EXPECT_NE(seen[0].cache_namespace(), seen[2].cache_namespace());
  // The other tenant's namespace as a salt stays within one's own, and so does its name where nobody vouches for it.
  ASSERT_OK(Generate(&f, two, seen[0].cache_namespace()));
  Metadata spoofed = two;
  spoofed.emplace_back("x-dunlin-tenant", seen[0].tenant());
  ASSERT_OK(Generate(&f, spoofed));
  EXPECT_NE(worker.requests()[3].cache_namespace(), seen[0].cache_namespace());
  EXPECT_EQ(worker.requests()[4].cache_namespace(), seen[1].cache_namespace());
  EXPECT_THAT(Generate(&f, {{"authorization", "Bearer key-one"}, {"x-dunlin-priority", "3"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("x-dunlin-priority")));
}

TEST(GatewayTenants, BehindATrustedProxyTheHeaderNamesTheTenantAlikeOnEveryReplica) {
  FakeWorker worker({}, Answer("x"));
  GatewayFixture first({&worker}, true, Keys({}, /*trust=*/true));
  GatewayFixture second({&worker}, true, Keys({}, /*trust=*/true));
  ASSERT_OK(Generate(&first, {{"x-dunlin-tenant", "acme"}}));
  ASSERT_OK(Generate(&second, {{"x-dunlin-tenant", "acme"}}));
  ASSERT_OK(Generate(&first, {{"x-dunlin-tenant", "globex"}}));
  ASSERT_OK(Generate(&first, {}));
  const auto seen = worker.requests();
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[0].cache_namespace(), seen[1].cache_namespace());
  EXPECT_EQ(seen[0].tenant(), seen[1].tenant());
  EXPECT_NE(seen[0].tenant(), seen[2].tenant());
  EXPECT_EQ(seen[3].tenant(), "");
}

TEST(GatewayTenants, ABadKeyKeepsTheGatewayFromStartingAndIsNotShown) {
  gateway::GatewayOptions options;
  options.api_keys = {"hunter two"};
  const absl::Status status = gateway::Gateway::Create(options).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("--api-key")));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, ::testing::Not(::testing::HasSubstr("hunter"))));
}

}  // namespace
}  // namespace dunlin::testing
