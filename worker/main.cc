// dunlin-worker: one model on one device, served to gateways over gRPC. Flags and signals; the rest is
// worker_process.h. Exit codes: 0 drained, 1 failed (the device too), 2 bad usage. SIGTERM and SIGINT drain; a second
// one exits at once.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "base/process.h"
#include "proto/config_flags.h"
#include "worker/service/dry_run.h"
#include "worker/worker_process.h"

namespace {

using dunlin::worker::WorkerProcess;

constexpr char kProgram[] = "dunlin-worker";
constexpr char kSummary[] =
    "Serves one model on one device to gateways over gRPC (dunlin.worker.v1, token ids only). Usually started by "
    "'dunlin serve'.";

void Say(const std::string& text) { std::fprintf(stderr, "%s: %s\n", kProgram, text.c_str()); }

dunlin::worker::ProgressCallback MakeProgress() {
  if (isatty(STDERR_FILENO) == 0) return {};
  return [last = -1](uint64_t done, uint64_t total) mutable {
    const int percent =
        total == 0 ? 100 : static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
    if (percent == last) return;
    last = percent;
    std::fprintf(stderr, "\rloading the model: %d %%%s", percent, percent >= 100 ? "\n" : "");
  };
}

// What names a flag is bad usage; a broken model file is not.
int ExitCodeOf(const absl::Status& status) {
  const bool refused =
      absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) || absl::IsFailedPrecondition(status);
  return refused && absl::StartsWith(status.message(), "--") ? 2 : 1;
}

int PrintPlan(const dunlin::v1::ServerConfig& config) {
  const absl::StatusOr<std::string> plan = dunlin::worker::DryRun(config);
  if (!plan.ok()) {
    Say(std::string(plan.status().message()));
    return ExitCodeOf(plan.status());
  }
  std::fputs(plan->c_str(), stdout);
  return 0;
}

// Until a signal or the loss of the device. True: a signal.
bool Serve(const WorkerProcess& worker) {
  while (!dunlin::TerminationSignals::Wait(std::chrono::hours(1))) {
    if (worker.Snapshot().lost_device) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  dunlin::MapLargeBlocks();
  dunlin::ParsedConfig parsed;
  const std::vector<std::string> args(argv + 1, argv + std::max(argc, 1));
  if (const std::optional<int> code = dunlin::MainConfig(args, kProgram, kSummary, dunlin::kWorkerFlags, &parsed)) {
    return *code;
  }
  const dunlin::v1::ServerConfig& config = parsed.config;
  if (config.dry_run()) return PrintPlan(config);
  if (config.json()) {
    Say("--json: only with --dry-run");
    return 2;
  }
  if (dunlin::Supervised()) dunlin::FollowSupervisor();
  dunlin::RaiseFileLimit();
  if (const absl::Status status = dunlin::TerminationSignals::Install(dunlin::Supervised()); !status.ok()) {
    Say(std::string(status.message()));
    return 1;
  }
  absl::StatusOr<std::unique_ptr<WorkerProcess>> worker =
      WorkerProcess::Start(config, {.progress = MakeProgress(), .device_lost = dunlin::TerminationSignals::Wake});
  if (!worker.ok()) {
    Say(std::string(worker.status().message()));
    return ExitCodeOf(worker.status());
  }
  dunlin::TerminationSignals::Arm();
  if (!config.addresses_file().empty()) {
    const absl::Status status = dunlin::WriteFileAtomically(config.addresses_file(), (*worker)->AddressesJson());
    if (!status.ok()) {
      Say(std::string(status.message()));
      return 1;
    }
  }
  Say((*worker)->summary());

  const bool signalled = Serve(**worker);
  (*worker)->BeginDrain();
  if (!signalled) {
    Say("the device is lost; open streams end as UNAVAILABLE");
    (*worker)->WaitDrained(absl::Seconds(1));  // so that their own status reaches the clients
    return 1;
  }
  const int open = (*worker)->open_streams();
  Say("draining: " + std::to_string(open) + " open streams, at most " + std::to_string(config.drain_timeout_seconds()) +
      " s");
  if (!(*worker)->WaitDrained(absl::Seconds(config.drain_timeout_seconds()))) {
    Say(std::to_string((*worker)->open_streams()) + " streams were cut off");
  }
  worker->reset();
  Say("drained");
  return 0;
}
