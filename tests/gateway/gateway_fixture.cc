#include "tests/gateway/gateway_fixture.h"

#include <chrono>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/status_map.h"

namespace dunlin::testing {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

GatewayFixture::GatewayFixture(const std::vector<const FakeWorker*>& workers, bool wait,
                               const std::function<void(gateway::GatewayOptions*)>& change) {
  gateway::GatewayOptions options;
  options.model_path = model_file.path();
  options.served_model_name = "tiny";
  options.worker_poll_interval = absl::Milliseconds(20);
  for (const FakeWorker* worker : workers) options.worker_addresses.push_back(worker->address());
  if (change) change(&options);
  auto created = gateway::Gateway::Create(options);
  CHECK(created.ok()) << created.status().ToString();
  gateway = *std::move(created);
  channel = Connect(gateway->grpc_address());
  admin_channel = Connect(gateway->admin_address());
  stub = v1::InferenceService::NewStub(channel);
  control = v1::ControlService::NewStub(admin_channel);
  health = grpc::health::v1::Health::NewStub(channel);
  if (wait) AwaitHealth(true);
}

std::shared_ptr<grpc::Channel> GatewayFixture::Connect(const std::string& address) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

std::string GatewayFixture::Stream::Text(uint32_t index) const {
  std::string text;
  for (const auto& event : events) {
    if (event.has_delta() && event.delta().index() == index) text += event.delta().text();
  }
  return text;
}

const v1::Finished* GatewayFixture::Stream::finished(uint32_t index) const {
  for (const auto& event : events) {
    if (event.has_finished() && event.finished().index() == index) return &event.finished();
  }
  return nullptr;
}

const v1::Summary* GatewayFixture::Stream::summary() const {
  return !events.empty() && events.back().has_summary() ? &events.back().summary() : nullptr;
}

GatewayFixture::Stream GatewayFixture::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  Stream stream;
  v1::GenerateResponse event;
  while (reader->Read(&event)) stream.events.push_back(event);
  stream.status = FromGrpcStatus(reader->Finish());
  return stream;
}

void GatewayFixture::AwaitHealth(bool serving, const std::string& service) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service(service);
  const auto reader = health->Watch(&context, request);
  HealthCheckResponse response;
  while (reader->Read(&response)) {
    if (response.status() == (serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING)) break;
  }
  context.TryCancel();
  reader->Finish();
}

bool GatewayFixture::HasMetric(absl::string_view line) const {
  return absl::StrContains(absl::StrCat("\n", gateway->MetricsText()), absl::StrCat("\n", line, "\n"));
}

void GatewayFixture::AwaitMetric(absl::string_view line) {
  // Metrics have no notification; a wrong value ends by the test's own time limit.
  while (!HasMetric(line)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

v1::GenerateRequest Prompt(absl::string_view text) {
  v1::GenerateRequest request;
  request.set_prompt(std::string(text));
  return request;
}

}  // namespace dunlin::testing
