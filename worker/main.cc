// dunlin-worker: one model on one device, served to gateways over gRPC. Flags and signals; the rest is
// worker_process.h. Exit codes: 0 drained, 1 failed (the device too), 2 bad usage. SIGTERM and SIGINT drain; a second
// one exits at once.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "proto/config_flags.h"
#include "worker/worker_process.h"

namespace {

using dunlin::worker::WorkerProcess;

constexpr char kProgram[] = "dunlin-worker";
constexpr char kSummary[] =
    "Serves one model on one device to gateways over gRPC (dunlin.worker.v1, token ids only). Usually started by "
    "'dunlin serve'.";
// How often the supervising loop looks at the device when no signal wakes it.
constexpr int kWatchMilliseconds = 200;

// What a signal handler may touch.
std::atomic<int> g_signals{0};
std::atomic<bool> g_serving{false};
int g_wake_fds[2] = {-1, -1};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void OnSignal(int) {
  // While loading nothing is lost by leaving; during a drain the second signal cuts it short.
  if (!g_serving.load()) _exit(0);
  if (g_signals.fetch_add(1) >= 1) _exit(1);
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(g_wake_fds[1], &byte, 1);
}

bool InstallSignalHandlers(bool supervised) {
  if (pipe2(g_wake_fds, O_CLOEXEC | O_NONBLOCK) != 0) return false;
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGTERM, &action, nullptr) != 0) return false;
  // A terminal sends Ctrl+C to everybody; the supervisor then says SIGTERM, and the two must not count as two.
  if (supervised) action.sa_handler = SIG_IGN;
  return sigaction(SIGINT, &action, nullptr) == 0 && signal(SIGPIPE, SIG_IGN) != SIG_ERR;
}

bool Supervised() {
  const char* const value = std::getenv("DUNLIN_SUPERVISED");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

// A worker must not outlive its supervisor: nobody could reach or stop it.
void FollowSupervisor() {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() == 1) _exit(0);  // it went before the request stood
}

// One connection is one descriptor; the usual soft limit is reached by a few gateways and probes too many.
void RaiseFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 65536));
  setrlimit(RLIMIT_NOFILE, &limit);
}

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
  return absl::IsInvalidArgument(status) && absl::StartsWith(status.message(), "--") ? 2 : 1;
}

// Until a signal or the loss of the device. True: a signal.
bool Serve(const WorkerProcess& worker) {
  while (g_signals.load() == 0) {
    pollfd wake = {g_wake_fds[0], POLLIN, 0};
    poll(&wake, 1, kWatchMilliseconds);
    if (worker.Snapshot().lost_device) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  dunlin::ParsedConfig parsed;
  const std::vector<std::string> args(argv + 1, argv + std::max(argc, 1));
  if (const std::optional<int> code = dunlin::MainConfig(args, kProgram, kSummary, dunlin::kWorkerFlags, &parsed)) {
    return *code;
  }
  if (Supervised()) FollowSupervisor();
  RaiseFileLimit();
  if (!InstallSignalHandlers(Supervised())) {
    Say("cannot install signal handlers");
    return 1;
  }
  const dunlin::v1::ServerConfig& config = parsed.config;
  absl::StatusOr<std::unique_ptr<WorkerProcess>> worker = WorkerProcess::Start(config, MakeProgress());
  if (!worker.ok()) {
    Say(std::string(worker.status().message()));
    return ExitCodeOf(worker.status());
  }
  g_serving.store(true);
  if (!config.addresses_file().empty()) {
    const absl::Status status =
        dunlin::worker::WriteFileAtomically(config.addresses_file(), (*worker)->AddressesJson());
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
