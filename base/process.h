// What every server process does with its operating system: termination signals, the file limit, its supervisor, files
// that change in one step; memory given back. Thread-safety: TerminationSignals: Install once from the main thread,
// Wait from one thread; the functions are thread-safe. Errors: kInternal with the path or call and the system's reason.
#ifndef DUNLIN_BASE_PROCESS_H_
#define DUNLIN_BASE_PROCESS_H_

#include <sys/types.h>

#include <chrono>
#include <string>

#include "absl/status/status.h"

namespace dunlin {

// SIGTERM and SIGINT, counted: the first asks to drain, the second ends the process at once (exit code 1). Before Arm()
// a single one ends it (exit code 0): nothing is lost yet. Under a supervisor SIGINT is ignored: a terminal sends
// Ctrl+C to everybody, and the supervisor then says SIGTERM; the two must not count as two. SIGPIPE is ignored.
class TerminationSignals {
 public:
  static absl::Status Install(bool supervised);
  static void Arm();
  // True once a signal came; waits for one at most this long, or until Wake.
  static bool Wait(std::chrono::milliseconds limit);
  // Ends the Wait of now, or the next one, early. From any thread.
  static void Wake();
};

// Started by another of our processes that ends us (the environment says DUNLIN_SUPERVISED=<its pid>).
bool Supervised();
// Arranges for SIGTERM when the supervisor dies: nobody could reach or stop us then. Exits when it is gone already.
void FollowSupervisor();
// "NAME=value": what a supervisor puts into the environment of a child that shall follow it.
std::string SupervisedBy(pid_t supervisor);

// One connection is one descriptor; the usual soft limit is reached by a few peers and probes too many.
void RaiseFileLimit();

// Makes the allocator map every larger block apart, so that it goes back when it is freed and untouched parts of it
// never become resident; by default it learns from the first large block freed to keep such memory. First thing in
// main().
void MapLargeBlocks();
// Gives memory that was freed, and that the allocator keeps, back to the system: after a start, which needs more than
// the serving that follows. Milliseconds. Nothing happens where the allocator has no such call.
void ReturnFreedMemory();

// Replaces `path` in one step, so that a reader sees the old content or the new.
absl::Status WriteFileAtomically(const std::string& path, const std::string& content);

}  // namespace dunlin

#endif  // DUNLIN_BASE_PROCESS_H_
