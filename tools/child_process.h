// Starting and ending child processes without a shell, in their own process group, so that Ctrl+C on the terminal
// reaches only us. Thread-safety: Spawn is thread-safe; a ChildProcess belongs to one thread.  Owns: nothing: a running
// child outlives its handle; End and Wait reap it.  Errors: kInternal / kNotFound naming the program and the system's
// reason.
#ifndef DUNLIN_TOOLS_CHILD_PROCESS_H_
#define DUNLIN_TOOLS_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace dunlin::tools {

// Signals are unblocked and at their defaults in the child; its environment is ours plus `environment` ("NAME=value"),
// which replaces what we have of the same name.
absl::StatusOr<pid_t> Spawn(const std::string& program, const std::vector<std::string>& args,
                            const std::vector<std::string>& environment);

// "ended with status 3", "was ended by signal 9 (Killed)".
std::string DescribeExit(int wait_status);
// What a shell would report: the exit code, or 128 + signal.
int ExitCode(int wait_status);

// Waits at most `limit` for the child's end, then kills it. Returns its wait status.
int WaitOrKill(pid_t pid, absl::Duration limit);

// The directory of the running executable, where its siblings are.
std::string ExecutableDirectory();

// A fresh directory that only this user can enter; removed with its content by RemoveDirectory.
absl::StatusOr<std::string> MakePrivateDirectory();
void RemoveDirectory(const std::string& path);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_CHILD_PROCESS_H_
