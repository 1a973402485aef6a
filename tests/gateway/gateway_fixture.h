// A whole gateway on free loopback ports in front of scripted workers, and its clients.
// Thread-safety: test thread.  Waiting is by events of the system under test (health watches, streams), never by time.
#ifndef DUNLIN_TESTS_GATEWAY_GATEWAY_FIXTURE_H_
#define DUNLIN_TESTS_GATEWAY_GATEWAY_FIXTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "dunlin/v1/control.grpc.pb.h"
#include "dunlin/v1/inference.grpc.pb.h"
#include "gateway/gateway.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "tests/gateway/fake_worker.h"
#include "tests/gateway/tiny_model.h"

namespace dunlin::testing {

class GatewayFixture {
 public:
  // Starts the gateway on these workers; waits until it is SERVING if `wait`.
  GatewayFixture(const std::vector<const FakeWorker*>& workers, bool wait = true,
                 const std::function<void(gateway::GatewayOptions*)>& change = nullptr);

  struct Stream {
    std::vector<v1::GenerateResponse> events;
    absl::Status status;
    std::string Text(uint32_t index = 0) const;
    const v1::Finished* finished(uint32_t index = 0) const;  // nullptr when absent
    const v1::Summary* summary() const;
  };
  Stream Generate(const v1::GenerateRequest& request);

  // Blocks until health of `service` is as said.
  void AwaitHealth(bool serving, const std::string& service = "");
  // Blocks until the metrics text contains this line.
  void AwaitMetric(absl::string_view line);
  bool HasMetric(absl::string_view line) const;

  static std::shared_ptr<grpc::Channel> Connect(const std::string& address);

  TinyModelFile model_file;
  std::unique_ptr<gateway::Gateway> gateway;
  std::shared_ptr<grpc::Channel> channel;
  std::shared_ptr<grpc::Channel> admin_channel;
  std::unique_ptr<v1::InferenceService::Stub> stub;
  std::unique_ptr<v1::ControlService::Stub> control;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

v1::GenerateRequest Prompt(absl::string_view text);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_GATEWAY_GATEWAY_FIXTURE_H_
