// dunlin-gateway: the public gRPC API in front of one or more workers.
// SIGTERM and SIGINT drain (open streams may finish, for --drain-timeout-seconds); a second one ends at once.
// Exit code 0 done, 1 failed, 2 bad usage.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/gateway.h"
#include "proto/config_flags.h"

namespace dunlin::gateway {
namespace {

constexpr int kDrained = SIGUSR1;  // from our own drain thread to the waiting main thread

sigset_t HandledSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, kDrained}) sigaddset(&signals, signal);
  return signals;
}

GatewayOptions OptionsFrom(const v1::ServerConfig& config) {
  GatewayOptions options;
  options.model_path = config.model();
  options.served_model_name = config.served_model_name();
  options.chat_template_path = config.chat_template();
  options.host = config.host();
  options.grpc_port = config.grpc_port();
  options.admin_port = config.admin_port();
  options.metrics_port = config.metrics_port();
  options.worker_addresses.assign(config.worker_address().begin(), config.worker_address().end());
  options.limits = {.max_active = config.max_active_streams(), .max_queued = config.max_queued_requests()};
  if (config.has_reflection()) options.reflection = config.reflection();
  if (config.has_seed()) options.seed = config.seed();
  options.version = DUNLIN_VERSION;
  options.commit = DUNLIN_COMMIT;
  options.config = ConfigText(config);
  return options;
}

// Written beside the target and renamed, so that a reader sees all of it or none. The values need no escaping: they are
// host:port as bound.
bool WriteAddresses(const Gateway& gateway, const std::string& path) {
  const std::string temporary = absl::StrCat(path, ".tmp.", getpid());
  std::ofstream out(temporary);
  out << "{\"grpc\": \"" << gateway.grpc_address() << "\", \"admin\": \"" << gateway.admin_address()
      << "\", \"metrics\": \"" << gateway.metrics_address() << "\"}\n";
  out.close();
  return out.good() && std::rename(temporary.c_str(), path.c_str()) == 0;
}

// Blocks until the process is told to end and has drained.
void ServeUntilSignalled(Gateway* gateway, absl::Duration drain_timeout) {
  const sigset_t signals = HandledSignals();
  int signal = 0;
  do {
    sigwait(&signals, &signal);
  } while (signal == kDrained);
  std::fprintf(stderr, "dunlin-gateway: draining; a second signal ends at once\n");
  const pthread_t main_thread = pthread_self();
  std::thread drain([gateway, drain_timeout, main_thread] {
    if (!gateway->Drain(drain_timeout)) std::fprintf(stderr, "dunlin-gateway: drain deadline passed\n");
    pthread_kill(main_thread, kDrained);
  });
  sigwait(&signals, &signal);
  if (signal != kDrained) _exit(0);
  drain.join();
}

int Main(const std::vector<std::string>& args) {
  ParsedConfig parsed;
  const std::optional<int> exit_code =
      MainConfig(args, "dunlin-gateway", "Serves the public gRPC API in front of workers.", kGatewayFlags, &parsed);
  if (exit_code.has_value()) return *exit_code;
  const v1::ServerConfig& config = parsed.config;
  if (config.model().empty()) {
    std::fprintf(stderr, "dunlin-gateway: --model is missing\n");
    return 2;
  }
  // Before any thread starts, so that all of them leave these signals to the main thread.
  const sigset_t signals = HandledSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  absl::StatusOr<std::unique_ptr<Gateway>> gateway = Gateway::Create(OptionsFrom(config));
  if (!gateway.ok()) {
    std::fprintf(stderr, "dunlin-gateway: %s\n", std::string(gateway.status().message()).c_str());
    return 1;
  }
  if (!config.addresses_file().empty() && !WriteAddresses(**gateway, config.addresses_file())) {
    std::fprintf(stderr, "dunlin-gateway: --addresses-file %s cannot be written\n", config.addresses_file().c_str());
    return 1;
  }
  std::fprintf(stderr, "dunlin-gateway: model %s, grpc %s, admin %s, metrics http://%s/metrics\n",
               (*gateway)->model_name().c_str(), (*gateway)->grpc_address().c_str(),
               (*gateway)->admin_address().c_str(), (*gateway)->metrics_address().c_str());
  ServeUntilSignalled(gateway->get(), absl::Seconds(config.drain_timeout_seconds()));
  return 0;
}

}  // namespace
}  // namespace dunlin::gateway

int main(int argc, char** argv) { return dunlin::gateway::Main(std::vector<std::string>(argv + 1, argv + argc)); }
