// Who ends when whom is killed: no process of ours outlives the one that could stop it, and `dunlin serve` works as the
// first process of a container. Real processes with the default model.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/process.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "tools/child_process.h"
#include "tools/flat_json.h"

namespace dunlin::tools {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(60);  // of a failure; nothing waits this long otherwise

template <typename Condition>
bool Eventually(const Condition& condition) {
  const absl::Time end = absl::Now() + kLimit;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(10));  // between looks at other processes, which cannot tell us
  }
  return true;
}

// Parent of a process, 0 when it is gone or only waits to be reaped.
pid_t ParentOf(const std::string& pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(in, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  const std::vector<std::string> rest = absl::StrSplit(line.substr(name_end + 1), ' ', absl::SkipEmpty());
  pid_t parent = 0;
  if (rest.size() < 2 || rest[0] == "Z" || !absl::SimpleAtoi(rest[1], &parent)) return 0;
  return parent;
}

bool Runs(pid_t pid) { return ParentOf(absl::StrCat(pid)) != 0; }

std::set<pid_t> ChildrenOf(pid_t parent) {
  std::set<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    pid_t pid = 0;
    const std::string name = entry.path().filename();
    if (absl::SimpleAtoi(name, &pid) && ParentOf(name) == parent) children.insert(pid);
  }
  return children;
}

class SupervisionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = dunlin::testing::DefaultModelPath();
    if (model_.empty()) GTEST_SKIP() << "the default model file is absent";
    ASSERT_OK_AND_ASSIGN(directory_, MakePrivateDirectory());
    addresses_ = directory_ + "/addresses.json";
  }
  void TearDown() override {
    for (const pid_t pid : started_) {
      if (Runs(pid)) kill(pid, SIGKILL);
    }
    if (!directory_.empty()) RemoveDirectory(directory_);
  }
  std::vector<std::string> ServeFlags() const {
    return {"serve",
            "--model=" + model_,
            "--addresses-file=" + addresses_,
            "--grpc-port=0",
            "--admin-port=0",
            "--metrics-port=0",
            "--worker-metrics-port=0",
            "--kv-cache-memory-bytes=16M",
            "--max-model-len=512"};
  }

  std::string model_;
  std::string directory_;
  std::string addresses_;
  std::set<pid_t> started_;  // every process seen, for the clean-up of a failed test
};

TEST_F(SupervisionTest, AServersProcessesEndWhenItIsKilled) {
  ASSERT_OK_AND_ASSIGN(const pid_t serve, Spawn(DUNLIN_BIN "/dunlin", ServeFlags(), {}));
  started_.insert(serve);
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(addresses_) || !Runs(serve); }));
  const std::set<pid_t> children = ChildrenOf(serve);
  started_.insert(children.begin(), children.end());
  ASSERT_EQ(children.size(), 2u);  // a worker and the gateway
  kill(serve, SIGKILL);
  waitpid(serve, nullptr, 0);
  for (const pid_t child : children) EXPECT_TRUE(Eventually([&] { return !Runs(child); })) << child;
}

TEST_F(SupervisionTest, AnApiKeyReachesTheGatewayByNoCommandLine) {
  std::vector<std::string> flags = ServeFlags();
  flags.push_back("--config=" + directory_ + "/keys.textproto");
  ASSERT_OK(WriteFileAtomically(directory_ + "/keys.textproto", "api_key: \"hunter2\"\n"));
  ASSERT_OK_AND_ASSIGN(const pid_t serve, Spawn(DUNLIN_BIN "/dunlin", flags, {}));
  started_.insert(serve);
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(addresses_) || !Runs(serve); }));
  const std::set<pid_t> children = ChildrenOf(serve);
  started_.insert(children.begin(), children.end());
  for (const pid_t child : children) {
    for (const char* file : {"cmdline", "environ"}) {
      std::ifstream in(absl::StrCat("/proc/", child, "/", file));
      const std::string text{std::istreambuf_iterator<char>(in), {}};
      ASSERT_NE(text, "") << file;
      EXPECT_EQ(text.find("hunter2"), std::string::npos) << file;
    }
  }
  const std::string address = ParseFlatJson(dunlin::testing::ReadFile(addresses_))["grpc"];
  const auto generate = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args = {"generate", "--address=" + address, "--max-tokens=1", "hi"};
    args.insert(args.end(), more.begin(), more.end());
    const absl::StatusOr<pid_t> pid = Spawn(DUNLIN_BIN "/dunlin", args, {"DUNLIN_API_KEY="});
    return pid.ok() ? ExitCode(WaitOrKill(*pid, kLimit)) : -1;
  };
  EXPECT_EQ(generate({}), 1);
  EXPECT_EQ(generate({"--api-key=hunter3"}), 1);
  EXPECT_EQ(generate({"--api-key=hunter 2"}), 2);
  EXPECT_EQ(generate({"--api-key=hunter2"}), 0);
  kill(serve, SIGTERM);
  EXPECT_EQ(ExitCode(WaitOrKill(serve, kLimit)), 0);
}

TEST_F(SupervisionTest, APrivateServerEndsWhenItsGenerateCommandIsKilled) {
  ASSERT_OK_AND_ASSIGN(const pid_t generate, Spawn(DUNLIN_BIN "/dunlin",
                                                   {"generate", "--model", model_, "--max-tokens", "4000",
                                                    "--temperature", "1", "--seed", "1", "Once upon a time"},
                                                   {}));
  started_.insert(generate);
  std::set<pid_t> servers, processes;
  ASSERT_TRUE(Eventually([&] {
    servers = ChildrenOf(generate);
    if (servers.empty()) return false;
    processes = ChildrenOf(*servers.begin());
    return processes.size() == 2;
  }));
  processes.insert(servers.begin(), servers.end());
  started_.insert(processes.begin(), processes.end());
  kill(generate, SIGKILL);
  waitpid(generate, nullptr, 0);
  for (const pid_t process : processes) EXPECT_TRUE(Eventually([&] { return !Runs(process); })) << process;
}

TEST_F(SupervisionTest, ServesAsTheFirstProcessOfAContainer) {
  // unshare(1) with --fork makes its child process 1 of a new namespace.
  const std::string unshare = "/usr/bin/unshare";
  if (!std::filesystem::exists(unshare)) GTEST_SKIP() << "unshare(1) is absent";
  std::vector<std::string> args = {"--user", "--map-root-user", "--pid", "--fork", "--kill-child"};
  ASSERT_OK_AND_ASSIGN(const pid_t probe, Spawn(unshare,
                                                [&] {
                                                  std::vector<std::string> probe_args = args;
                                                  probe_args.push_back("/bin/true");
                                                  return probe_args;
                                                }(),
                                                {}));
  if (WaitOrKill(probe, kLimit) != 0) GTEST_SKIP() << "this machine allows no process namespaces";
  args.push_back(DUNLIN_BIN "/dunlin");
  for (const std::string& flag : ServeFlags()) args.push_back(flag);
  ASSERT_OK_AND_ASSIGN(const pid_t pid, Spawn(unshare, args, {}));
  started_.insert(pid);
  EXPECT_TRUE(Eventually([&] { return std::filesystem::exists(addresses_) || !Runs(pid); }));
  EXPECT_TRUE(std::filesystem::exists(addresses_)) << "it ended instead";
  kill(pid, SIGKILL);  // --kill-child takes the namespace along
  waitpid(pid, nullptr, 0);
}

}  // namespace
}  // namespace dunlin::tools
