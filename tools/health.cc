#include "tools/health.h"

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/time/clock.h"

#include "grpc/health/v1/health.grpc.pb.h"

namespace dunlin::tools {

bool IsServing(const std::string& address, absl::Duration limit) {
  grpc::ChannelArguments arguments;
  arguments.SetInt("grpc.enable_http_proxy", 0);
  const auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  const auto stub = ::grpc::health::v1::Health::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
  context.set_wait_for_ready(true);
  ::grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, {}, &response);
  return status.ok() && response.status() == ::grpc::health::v1::HealthCheckResponse::SERVING;
}

}  // namespace dunlin::tools
