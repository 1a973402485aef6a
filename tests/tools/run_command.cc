#include "tests/tools/run_command.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>

#include "base/check.h"

extern char** environ;

namespace dunlin::testing {
namespace {

struct Close {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
using File = std::unique_ptr<std::FILE, Close>;

File Temporary() {
  File file(std::tmpfile());
  CHECK(file != nullptr) << "no temporary file";
  return file;
}

std::string Content(std::FILE* file) {
  std::rewind(file);
  std::string text;
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), file)) text.append(buffer.data(), n);
  return text;
}

}  // namespace

CommandResult RunCommand(const std::string& program, const std::vector<std::string>& args, const std::string& input) {
  // Files, not pipes: nobody can block on a full one.
  const File in = Temporary(), out = Temporary(), err = Temporary();
  CHECK_EQ(std::fwrite(input.data(), 1, input.size(), in.get()), input.size());
  std::rewind(in.get());
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fileno(in.get()), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(out.get()), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(err.get()), STDERR_FILENO);
  std::vector<std::string> words = {program};
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  CHECK_EQ(posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ), 0) << program;
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  CHECK_EQ(waitpid(pid, &status, 0), pid);
  CommandResult result;
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  result.out = Content(out.get());
  result.err = Content(err.get());
  return result;
}

}  // namespace dunlin::testing
