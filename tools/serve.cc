#include "tools/serve.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <span>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "proto/config_flags.h"
#include "tools/child_process.h"
#include "tools/device_assignment.h"
#include "tools/flat_json.h"
#include "tools/health.h"
#include "tools/restart_policy.h"

namespace dunlin::tools {
namespace {

constexpr char kSummary[] =
    "Serves a model on this machine: one worker process per device and a gateway, supervised.\n"
    "Ctrl+C (or SIGTERM) lets open streams finish; a second one ends at once.";
constexpr absl::Duration kPollInterval = absl::Milliseconds(20);

void Say(const std::string& line) { std::fprintf(stderr, "dunlin serve: %s\n", line.c_str()); }

std::string ReadAll(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// The machine's devices as far as this build can use them.
Assignment AssignWorkers(const ParsedConfig& parsed) {
  std::vector<std::string> visible;
#if DUNLIN_CUDA
  visible = VisibleCudaDevices(getenv("CUDA_VISIBLE_DEVICES"));
#endif
  return AssignDevices(parsed.given.has_workers() ? parsed.config.workers() : 0, parsed.config.device(),
                       std::move(visible));
}

// What a worker's environment has beside ours.
std::vector<std::string> WorkerEnvironment(const Assignment& assignment, uint32_t index) {
  if (assignment.devices.empty()) return {};
  return {absl::StrCat("CUDA_VISIBLE_DEVICES=", assignment.devices[index % assignment.devices.size()])};
}

std::vector<std::string> WorkerFlags(v1::ServerConfig config, const Assignment& assignment, uint32_t index) {
  const uint32_t workers = assignment.workers;
  // Bound to devices, they take them or say why not: several workers side by side on the CPU are nobody's wish.
  if (!assignment.devices.empty()) config.set_device("cuda");
  config.set_worker_id(absl::StrCat("worker", index));
  if (config.worker_metrics_port() != 0) config.set_worker_metrics_port(config.worker_metrics_port() + index);
  if (config.threads() == 0 && workers > 1) {
    config.set_threads(std::max(1u, std::thread::hardware_concurrency() / workers));
  }
  // The share is of this machine's or one device's memory, which the workers on it divide among them.
  const uint32_t sharing = assignment.sharing();
  if (sharing > 1) config.set_gpu_memory_utilization(config.gpu_memory_utilization() / sharing);
  return FlagsFromConfig(config, kWorkerFlags);
}

// A --config file for the gateway with what no command line may show. "" when there is no secret.
absl::StatusOr<std::string> WriteSecrets(const v1::ServerConfig& config, const std::string& directory) {
  if (config.api_key().empty()) return std::string();
  v1::ServerConfig secrets;
  *secrets.mutable_api_key() = config.api_key();
  const std::string path = directory + "/gateway_secrets.textproto";  // the directory is this user's alone
  RETURN_IF_ERROR(WriteFileAtomically(path, secrets.DebugString()));
  return path;
}

// What each worker would do with the machine; its exit code.
int DryRun(const v1::ServerConfig& config, const Assignment& assignment) {
  signal(SIGCHLD, SIG_DFL);  // inherited as ignored, the kernel would reap our child unseen
  if (assignment.workers > 1) Say(absl::StrCat("the plan of each of the ", assignment.workers, " workers"));
  std::vector<std::string> environment = WorkerEnvironment(assignment, 0);
  environment.push_back(SupervisedBy(getpid()));
  const absl::StatusOr<pid_t> pid =
      Spawn(ExecutableDirectory() + "/dunlin-worker", WorkerFlags(config, assignment, 0), environment);
  if (!pid.ok()) {
    Say(std::string(pid.status().message()));
    return 1;
  }
  return ExitCode(WaitOrKill(*pid, absl::Minutes(1)));
}

// One supervised process.
struct Child {
  std::string name;
  std::string program;
  std::vector<std::string> args;
  std::string addresses_path;                 // the child writes it once it is ready
  std::vector<std::string> environment = {};  // beside ours
  pid_t pid = -1;                             // -1: not running
  bool ready = false;
  bool was_ready = false;                        // ever
  absl::Time start_at = absl::InfiniteFuture();  // when to start it again
  RestartPolicy policy = {};
};

class Supervisor {
 public:
  // secrets_path: of WriteSecrets.
  Supervisor(v1::ServerConfig config, const Assignment& assignment, std::string directory,
             const std::string& secrets_path)
      : config_(std::move(config)), directory_(std::move(directory)), clock_(Clock::Real()) {
    const std::string bin = ExecutableDirectory();
    Child gateway{"gateway", bin + "/dunlin-gateway", FlagsFromConfig(config_, kGatewayFlags),
                  directory_ + "/gateway.json"};
    for (uint32_t i = 0; i < assignment.workers; ++i) {
      const std::string name = absl::StrCat("worker", i);
      const std::string socket = absl::StrCat("unix:", directory_, "/", name, ".sock");
      Child worker{name, bin + "/dunlin-worker", WorkerFlags(config_, assignment, i),
                   absl::StrCat(directory_, "/", name, ".json"), WorkerEnvironment(assignment, i)};
      worker.args.push_back("--listen=" + socket);
      worker.args.push_back("--addresses-file=" + worker.addresses_path);
      gateway.args.push_back("--worker-address=" + socket);
      children_.push_back(std::move(worker));
    }
    gateway.args.push_back("--addresses-file=" + gateway.addresses_path);
    if (!secrets_path.empty()) gateway.args.push_back("--config=" + secrets_path);
    children_.push_back(std::move(gateway));
    signal(SIGCHLD, SIG_DFL);  // inherited as ignored, the kernel would reap our children unseen
    sigemptyset(&signals_);
    for (const int s : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&signals_, s);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  int Run() {
    for (Child& c : children_) {
      if (const absl::Status s = Start(&c); !s.ok()) {
        Say(std::string(s.message()));
        exit_code_ = 1;
        break;
      }
    }
    while (exit_code_ < 0) {
      const int signal = WaitForSignal();
      if (signal == SIGINT || signal == SIGTERM) {
        Say("ending: open streams may finish; a second signal ends at once");
        exit_code_ = 0;
        break;
      }
      Reap();
      if (exit_code_ < 0) CheckReadiness();
      if (exit_code_ < 0) StartDue();
    }
    StopAll();
    return exit_code_;
  }

 private:
  absl::Status Start(Child* c) {
    std::error_code ignored;
    std::filesystem::remove(c->addresses_path, ignored);
    std::vector<std::string> environment = c->environment;
    environment.push_back(SupervisedBy(getpid()));
    ASSIGN_OR_RETURN(c->pid, Spawn(c->program, c->args, environment));
    c->ready = false;
    c->start_at = absl::InfiniteFuture();
    c->policy.OnStart(clock_->Now());
    return absl::OkStatus();
  }

  // SIGINT or SIGTERM when one came; else 0 after a child ended or it is time to look around.
  int WaitForSignal() {
    const bool all_ready = std::all_of(children_.begin(), children_.end(), [](const Child& c) { return c.ready; });
    absl::Duration wait = all_ready && announced_ ? absl::Hours(1) : kPollInterval;
    for (const Child& c : children_) wait = std::min(wait, c.start_at - clock_->Now());
    const timespec limit = absl::ToTimespec(std::max(wait, absl::ZeroDuration()));
    const int signal = sigtimedwait(&signals_, nullptr, &limit);
    return signal == SIGCHLD ? 0 : std::max(signal, 0);
  }

  void Reap() {
    for (Child& c : children_) {
      int status = 0;
      if (c.pid < 0 || waitpid(c.pid, &status, WNOHANG) != c.pid) continue;
      c.pid = -1;
      c.ready = false;
      if (c.name == "gateway" || !c.was_ready) {
        // A worker that never served has a reason that a restart would only repeat.
        Say(absl::StrCat(c.name, " ", DescribeExit(status)));
        exit_code_ = std::max(1, ExitCode(status));
        return;
      }
      const absl::Duration delay = c.policy.OnExit(clock_->Now());
      c.start_at = clock_->Now() + delay;
      Say(absl::StrCat(c.name, " ", DescribeExit(status), "; starting it again",
                       delay > absl::ZeroDuration() ? absl::StrCat(" in ", absl::FormatDuration(delay)) : ""));
    }
  }

  void CheckReadiness() {
    bool changed = false;
    for (Child& c : children_) {
      if (c.pid < 0 || c.ready || !std::filesystem::exists(c.addresses_path)) continue;
      c.ready = c.was_ready = changed = true;
    }
    const bool all_ready = std::all_of(children_.begin(), children_.end(), [](const Child& c) { return c.ready; });
    if (!all_ready || (!changed && announced_)) return;
    const std::map<std::string, std::string> addresses = Addresses();
    // The gateway has its own view of the workers: ready means that it would serve.
    if (!announced_ && !IsServing(addresses.at("grpc"), absl::Seconds(2))) return;
    if (!config_.addresses_file().empty()) {
      if (const absl::Status s = WriteFileAtomically(config_.addresses_file(), FlatJson(addresses)); !s.ok()) {
        Say(std::string(s.message()));
        exit_code_ = 1;
        return;
      }
    }
    for (const auto& [name, address] : addresses) {
      if (!announced_) Say(absl::StrCat(name, " on ", address));
    }
    Say(announced_ ? "every worker is ready again" : "ready");
    announced_ = true;
  }

  std::map<std::string, std::string> Addresses() const {
    std::map<std::string, std::string> all;
    for (const Child& c : children_) {
      for (const auto& [key, value] : ParseFlatJson(ReadAll(c.addresses_path))) {
        if (c.name == "gateway")
          all[key] = value;
        else if (key == "metrics")
          all[c.name + "_metrics"] = value;
      }
    }
    return all;
  }

  void StartDue() {
    for (Child& c : children_) {
      if (c.pid >= 0 || clock_->Now() < c.start_at) continue;
      if (const absl::Status s = Start(&c); !s.ok()) {
        Say(std::string(s.message()));
        exit_code_ = 1;
        return;
      }
    }
  }

  // The gateway first, so that its open streams still have their workers; then the workers.
  void StopAll() {
    const absl::Duration grace = absl::Seconds(config_.drain_timeout_seconds()) + absl::Seconds(5);
    std::reverse(children_.begin(), children_.end());
    Stop(std::span(children_).first(1), grace);
    Stop(std::span(children_).subspan(1), grace);
  }

  void Stop(std::span<Child> group, absl::Duration grace) {
    const auto send = [&](int signal) {
      for (const Child& c : group) {
        if (c.pid > 0) kill(c.pid, signal);
      }
    };
    send(SIGTERM);
    const absl::Time end = clock_->Now() + grace;
    while (std::any_of(group.begin(), group.end(), [](const Child& c) { return c.pid > 0; })) {
      const timespec limit = absl::ToTimespec(absl::Milliseconds(200));
      const int signal = sigtimedwait(&signals_, nullptr, &limit);
      const bool impatient = signal == SIGINT || signal == SIGTERM;
      if (impatient || clock_->Now() > end) send(SIGKILL);
      for (Child& c : group) {
        int status = 0;
        if (c.pid > 0 && waitpid(c.pid, &status, WNOHANG) == c.pid) c.pid = -1;
      }
    }
  }

  const v1::ServerConfig config_;
  const std::string directory_;
  const Clock* const clock_;
  std::vector<Child> children_;  // workers, then the gateway
  sigset_t signals_;
  bool announced_ = false;
  int exit_code_ = -1;  // < 0: go on
};

}  // namespace

int Serve(const std::vector<std::string>& args) {
  ParsedConfig parsed;
  if (const std::optional<int> code = MainConfig(args, "dunlin serve", kSummary, kServeFlags, &parsed)) return *code;
  if (Supervised()) FollowSupervisor();  // a private server of `dunlin generate`
  if (parsed.config.model().empty()) {
    Say("--model is required: the GGUF file or checkpoint folder to serve");
    return 2;
  }
  const Assignment assignment = AssignWorkers(parsed);
  if (parsed.config.dry_run()) return DryRun(parsed.config, assignment);
  if (parsed.config.json()) {
    Say("--json: only with --dry-run");
    return 2;
  }
  const absl::StatusOr<std::string> directory = MakePrivateDirectory();
  if (!directory.ok()) {
    Say(std::string(directory.status().message()));
    return 1;
  }
  const absl::StatusOr<std::string> secrets = WriteSecrets(parsed.config, *directory);
  int code = 1;
  if (secrets.ok()) {
    code = Supervisor(parsed.config, assignment, *directory, *secrets).Run();
  } else {
    Say(std::string(secrets.status().message()));
  }
  RemoveDirectory(*directory);
  return code;
}

}  // namespace dunlin::tools
