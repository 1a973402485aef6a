// dunlin-gateway: the public gRPC services in front of workers. Flags and signals; the rest is gateway.h.
// Exit codes: 0 drained, 1 failed, 2 bad usage. SIGTERM and SIGINT drain; a second one exits at once.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/process.h"
#include "gateway/gateway.h"
#include "proto/config_flags.h"

namespace {

using dunlin::gateway::Gateway;
using dunlin::gateway::GatewayOptions;

constexpr char kProgram[] = "dunlin-gateway";
constexpr char kSummary[] =
    "Takes dunlin.v1 gRPC calls, turns text into tokens and routes each stream to a worker. Usually started by 'dunlin "
    "serve'.";

void Say(const std::string& text) { std::fprintf(stderr, "%s: %s\n", kProgram, text.c_str()); }

GatewayOptions Options(const dunlin::v1::ServerConfig& config) {
  GatewayOptions options;
  options.model_path = config.model();
  options.served_model_name = config.served_model_name();
  options.chat_template_path = config.chat_template();
  options.host = config.host();
  options.grpc_port = config.grpc_port();
  options.admin_port = config.admin_port();
  options.metrics_port = config.metrics_port();
  options.worker_addresses.assign(config.worker_address().begin(), config.worker_address().end());
  options.limits.max_active = config.max_active_streams();
  options.limits.max_queued = config.max_queued_requests();
  options.api_keys.assign(config.api_key().begin(), config.api_key().end());
  options.trust_tenant_header = config.trust_tenant_header();
  if (config.has_reflection()) options.reflection = config.reflection();
  if (config.has_seed()) options.seed = config.seed();
  options.version = DUNLIN_VERSION;
  options.commit = DUNLIN_COMMIT;
  options.config = dunlin::ConfigText(config);
  return options;
}

// Addresses hold no character that JSON would escape.
std::string AddressesJson(const Gateway& gateway) {
  return absl::StrFormat("{\"grpc\": \"%s\", \"admin\": \"%s\", \"metrics\": \"%s\"}\n", gateway.grpc_address(),
                         gateway.admin_address(), gateway.metrics_address());
}

}  // namespace

int main(int argc, char** argv) {
  dunlin::MapLargeBlocks();
  dunlin::ParsedConfig parsed;
  const std::vector<std::string> args(argv + 1, argv + std::max(argc, 1));
  if (const std::optional<int> code = dunlin::MainConfig(args, kProgram, kSummary, dunlin::kGatewayFlags, &parsed)) {
    return *code;
  }
  const dunlin::v1::ServerConfig& config = parsed.config;
  if (config.model().empty() || config.worker_address().empty()) {
    Say("--model and at least one --worker-address are required");
    return 2;
  }
  if (dunlin::Supervised()) dunlin::FollowSupervisor();
  dunlin::RaiseFileLimit();
  if (const absl::Status status = dunlin::TerminationSignals::Install(dunlin::Supervised()); !status.ok()) {
    Say(std::string(status.message()));
    return 1;
  }
  const absl::StatusOr<std::unique_ptr<Gateway>> gateway = Gateway::Create(Options(config));
  if (!gateway.ok()) {
    Say(std::string(gateway.status().message()));
    // What names a flag is bad usage.
    return absl::IsInvalidArgument(gateway.status()) && absl::StartsWith(gateway.status().message(), "--") ? 2 : 1;
  }
  dunlin::TerminationSignals::Arm();
  if (!config.addresses_file().empty()) {
    const absl::Status status = dunlin::WriteFileAtomically(config.addresses_file(), AddressesJson(**gateway));
    if (!status.ok()) {
      Say(std::string(status.message()));
      return 1;
    }
  }
  while (!dunlin::TerminationSignals::Wait(std::chrono::hours(1))) {
  }
  Say("draining");
  const bool all = (*gateway)->Drain(absl::Seconds(config.drain_timeout_seconds()));
  (*gateway)->Shutdown();
  Say(all ? "drained" : "some streams were cut off");
  return 0;
}
