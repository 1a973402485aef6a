#include "base/process.h"

#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace dunlin {
namespace {

// What the signal handler may touch.
std::atomic<int> g_signals{0};
std::atomic<bool> g_armed{false};
int g_wake_fds[2] = {-1, -1};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void OnSignal(int) {
  if (!g_armed.load()) _exit(0);
  if (g_signals.fetch_add(1) >= 1) _exit(1);
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(g_wake_fds[1], &byte, 1);
}

constexpr char kSupervisorVariable[] = "DUNLIN_SUPERVISED";

// The process that started us and supervises us; 0 = none.
pid_t SupervisorPid() {
  const char* const value = std::getenv(kSupervisorVariable);
  pid_t pid = 0;
  return value != nullptr && absl::SimpleAtoi(value, &pid) ? pid : 0;
}

absl::Status SystemError(const std::string& what) {
  return absl::InternalError(absl::StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

absl::Status TerminationSignals::Install(bool supervised) {
  if (pipe2(g_wake_fds, O_CLOEXEC | O_NONBLOCK) != 0) return SystemError("pipe2");
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGTERM, &action, nullptr) != 0) return SystemError("sigaction");
  if (supervised) action.sa_handler = SIG_IGN;
  if (sigaction(SIGINT, &action, nullptr) != 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR) return SystemError("sigaction");
  return absl::OkStatus();
}

void TerminationSignals::Arm() { g_armed.store(true); }

bool TerminationSignals::Wait(std::chrono::milliseconds limit) {
  if (g_signals.load() == 0) {
    pollfd wake = {g_wake_fds[0], POLLIN, 0};
    poll(&wake, 1, static_cast<int>(limit.count()));
    char bytes[16];
    while (read(g_wake_fds[0], bytes, sizeof bytes) > 0) {
    }
  }
  return g_signals.load() != 0;
}

void TerminationSignals::Wake() {
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(g_wake_fds[1], &byte, 1);
}

bool Supervised() { return SupervisorPid() > 0; }

void FollowSupervisor() {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  // It went before the request stood. (That our parent is process 1 says nothing: in a container the supervisor is.)
  if (getppid() != SupervisorPid()) _exit(0);
}

std::string SupervisedBy(pid_t supervisor) { return absl::StrCat(kSupervisorVariable, "=", supervisor); }

void RaiseFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 65536));
  setrlimit(RLIMIT_NOFILE, &limit);
}

void MapLargeBlocks() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
#endif
}

void ReturnFreedMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

absl::Status WriteFileAtomically(const std::string& path, const std::string& content) {
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError("cannot write " + path);
  for (size_t at = 0; at < content.size();) {
    const ssize_t n = write(fd, content.data() + at, content.size() - at);
    if (n <= 0) {
      const absl::Status status = SystemError("cannot write " + path);
      close(fd);
      unlink(temporary.c_str());
      return status;
    }
    at += static_cast<size_t>(n);
  }
  close(fd);
  if (rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const absl::Status status = SystemError("cannot write " + path);
  unlink(temporary.c_str());
  return status;
}

}  // namespace dunlin
