// Runs one program to its end and tells what it said, for tests of command lines.
// Thread-safety: thread-safe.  Errors: CHECK-fails when the program cannot be started.
#ifndef DUNLIN_TESTS_TOOLS_RUN_COMMAND_H_
#define DUNLIN_TESTS_TOOLS_RUN_COMMAND_H_

#include <string>
#include <vector>

namespace dunlin::testing {

struct CommandResult {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

// stdin is `input`; nothing else is inherited but the environment.
CommandResult RunCommand(const std::string& program, const std::vector<std::string>& args,
                         const std::string& input = "");

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_TOOLS_RUN_COMMAND_H_
