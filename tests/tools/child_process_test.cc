// Child processes, private directories and addresses files.
#include "tools/child_process.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "tools/flat_json.h"

namespace dunlin::tools {
namespace {

using ::dunlin::testing::ReadFile;
using ::dunlin::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

int RunShell(const std::string& script, const std::vector<std::string>& environment = {}) {
  const absl::StatusOr<pid_t> pid = Spawn("/bin/sh", {"-c", script}, environment);
  if (!pid.ok()) return -1;
  return WaitOrKill(*pid, absl::Seconds(20));
}

TEST(ChildProcessTest, TellsHowAChildEnded) {
  const int three = RunShell("exit 3");
  EXPECT_EQ(ExitCode(three), 3);
  EXPECT_EQ(DescribeExit(three), "ended with status 3");
  const int killed = RunShell("kill -KILL $$");
  EXPECT_EQ(ExitCode(killed), 128 + SIGKILL);
  EXPECT_EQ(DescribeExit(killed), "was ended by signal 9 (Killed)");
}

TEST(ChildProcessTest, AMissingProgramIsNamed) {
  EXPECT_THAT(Spawn("/nowhere/dunlin-worker", {}, {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/dunlin-worker")));
}

TEST(ChildProcessTest, ArgumentsReachTheChildAsTheyAre) {
  const absl::StatusOr<pid_t> pid = Spawn("/usr/bin/test", {"$HOME *", "=", "$HOME *"}, {});
  ASSERT_OK(pid);
  EXPECT_EQ(ExitCode(WaitOrKill(*pid, absl::Seconds(20))), 0);
}

TEST(ChildProcessTest, AGivenVariableReplacesTheInheritedOneAndLeavesLongerNamesAlone) {
  ASSERT_EQ(setenv("DUNLIN_CHILD_TEST", "inherited", 1), 0);
  ASSERT_EQ(setenv("DUNLIN_CHILD_TEST_TOO", "inherited", 1), 0);
  const absl::StatusOr<pid_t> pid = Spawn("/bin/sleep", {"1000"}, {"DUNLIN_CHILD_TEST=given"});
  ASSERT_OK(pid);
  // As the child was given it: a shell would already have dropped a name's second value.
  // Empty until the kernel has set up the new program; the test's time limit bounds the wait.
  std::string environment;
  while (environment.empty()) environment = ReadFile(absl::StrCat("/proc/", *pid, "/environ"));
  kill(*pid, SIGKILL);
  WaitOrKill(*pid, absl::Seconds(20));
  unsetenv("DUNLIN_CHILD_TEST");
  unsetenv("DUNLIN_CHILD_TEST_TOO");
  std::vector<std::string> found;
  for (const absl::string_view entry : absl::StrSplit(environment, '\0')) {
    if (absl::StartsWith(entry, "DUNLIN_CHILD_TEST")) found.emplace_back(entry);
  }
  EXPECT_THAT(found, UnorderedElementsAre("DUNLIN_CHILD_TEST=given", "DUNLIN_CHILD_TEST_TOO=inherited"));
}

TEST(ChildProcessTest, AChildHasItsOwnProcessGroupAndNoBlockedSignal) {
  sigset_t all, before;
  sigfillset(&all);
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &all, &before), 0);
  const absl::StatusOr<pid_t> pid = Spawn("/bin/sh", {"-c", "kill -TERM $$; exit 0"}, {});
  ASSERT_OK(pid);
  EXPECT_NE(getpgid(*pid), getpgrp());
  EXPECT_EQ(ExitCode(WaitOrKill(*pid, absl::Seconds(20))), 128 + SIGTERM);
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
}

TEST(ChildProcessTest, AChildThatDoesNotEndInTimeIsKilled) {
  const absl::StatusOr<pid_t> pid = Spawn("/bin/sh", {"-c", "trap '' TERM; sleep 1000"}, {});
  ASSERT_OK(pid);
  EXPECT_EQ(ExitCode(WaitOrKill(*pid, absl::Milliseconds(20))), 128 + SIGKILL);
  kill(-*pid, SIGKILL);  // the shell's own child
}

TEST(ChildProcessTest, APrivateDirectoryIsNobodyElsesAndLeavesNothing) {
  ASSERT_OK_AND_ASSIGN(const std::string path, MakePrivateDirectory());
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(info.st_uid, geteuid());
  std::ofstream(path + "/file") << "content";
  RemoveDirectory(path);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(FlatJsonTest, WhatIsWrittenIsReadBack) {
  const std::map<std::string, std::string> values = {{"grpc", "127.0.0.1:50051"}, {"odd \"name\"\n", "\\ \xc3\xa9"}};
  EXPECT_EQ(ParseFlatJson(FlatJson(values)), values);
}

TEST(FlatJsonTest, AnythingElseIsEmpty) {
  for (const char* text : {"", "{", "[]", "3", "{\"a\": 1}", "\xff\xfe"})
    EXPECT_TRUE(ParseFlatJson(text).empty()) << text;
}

TEST(FlatJsonTest, BytesThatAreNotUtf8AreReplaced) { EXPECT_EQ(JsonQuote("a\xff"), "\"a\xef\xbf\xbd\""); }

}  // namespace
}  // namespace dunlin::tools
