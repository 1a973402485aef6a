// dunlin-worker as a process: flags, the addresses file, a stream from a tiny random model, signals and exit codes.
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_data.h"
#include "tests/tools/run_command.h"

extern char** environ;

namespace dunlin::worker {
namespace {

using ::testing::HasSubstr;

// A child with its stderr on a pipe. Killed at the end if it still runs.
class Worker {
 public:
  explicit Worker(std::vector<std::string> args) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    args.insert(args.begin(), DUNLIN_WORKER);
    std::vector<char*> argv;
    for (std::string& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, DUNLIN_WORKER, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    err_ = fdopen(fds[0], "r");
  }
  ~Worker() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::fclose(err_);
  }

  void Signal(int number) const { kill(pid_, number); }
  // The first line of stderr with `part`; "" when the process ends without one.
  std::string WaitForLine(const std::string& part) {
    std::string line;
    for (int c = 0; (c = std::fgetc(err_)) != EOF;) {
      line.push_back(static_cast<char>(c));
      if (c != '\n') continue;
      said_ += line;
      if (line.find(part) != std::string::npos) return line;
      line.clear();
    }
    return "";
  }
  // The exit code; -1 when a signal ended it.
  int Wait() {
    WaitForLine("\n\n");  // to its end
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  const std::string& said() const { return said_; }
  // A figure of /proc/<pid>/status, in bytes.
  int64_t Memory(const std::string& key) const {
    std::ifstream in(absl::StrCat("/proc/", pid_, "/status"));
    for (std::string line; std::getline(in, line);) {
      if (line.rfind(key + ":", 0) == 0) return 1024 * std::atoll(line.c_str() + key.size() + 1);
    }
    ADD_FAILURE() << "no " << key;
    return 0;
  }

 private:
  pid_t pid_ = -1;
  std::FILE* err_ = nullptr;
  std::string said_;
};

class WorkerMainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = absl::StrCat(::testing::TempDir(), "/worker_main_", getpid());
    testing::TinyLlamaOptions options;
    options.context_tokens = 4096;
    std::ofstream(base_ + ".gguf", std::ios::binary) << testing::BuildTinyLlama(options);
  }
  void TearDown() override {
    for (const char* end : {".gguf", ".gguf.dunlin-kv", ".json", ".sock"}) std::remove((base_ + end).c_str());
  }
  std::vector<std::string> Flags() const {
    return {"--model",
            base_ + ".gguf",
            "--listen",
            "unix:" + base_ + ".sock",
            "--worker-metrics-port",
            "0",
            "--addresses-file",
            base_ + ".json",
            "--kv-cache-memory-bytes",
            "8m",
            "--threads",
            "1"};
  }
  std::unique_ptr<v1::WorkerService::Stub> Stub() const {
    return v1::WorkerService::NewStub(
        grpc::CreateChannel("unix:" + base_ + ".sock", grpc::InsecureChannelCredentials()));
  }
  static v1::GenerateRequest LongRequest(uint32_t tokens) {
    v1::GenerateRequest r;
    r.add_prompt_ids(70);
    r.set_max_tokens(tokens);
    r.set_num_choices(1);
    r.set_ignore_eos(true);
    return r;
  }

  std::string base_;
};

TEST_F(WorkerMainTest, ItServesDrainsAndEndsWithZero) {
  Worker worker(Flags());
  ASSERT_THAT(worker.WaitForLine("ready"), HasSubstr("device cpu (auto: ")) << worker.said();
  const nlohmann::json addresses = nlohmann::json::parse(testing::ReadFile(base_ + ".json"));
  EXPECT_EQ(addresses["grpc"], "unix:" + base_ + ".sock");
  EXPECT_THAT(addresses["metrics"].get<std::string>(), HasSubstr("127.0.0.1:"));

  const auto stub = Stub();
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, LongRequest(600));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  worker.Signal(SIGTERM);
  EXPECT_THAT(worker.WaitForLine("draining"), HasSubstr("draining"));
  int tokens = event.tokens().ids_size();
  while (reader->Read(&event)) tokens += event.tokens().ids_size();
  EXPECT_TRUE(reader->Finish().ok()) << "an open stream ends in its own time";
  EXPECT_EQ(tokens, 600);
  EXPECT_EQ(worker.Wait(), 0) << worker.said();
}

TEST_F(WorkerMainTest, ASecondSignalEndsItAtOnce) {
  Worker worker(Flags());
  ASSERT_NE(worker.WaitForLine("ready"), "") << worker.said();
  const auto stub = Stub();
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, LongRequest(4000));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  worker.Signal(SIGTERM);
  ASSERT_NE(worker.WaitForLine("draining"), "");
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.Wait(), 1);
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(WorkerMainTest, AfterTheDrainTimeoutOpenStreamsAreCutOff) {
  std::vector<std::string> flags = Flags();
  flags.push_back("--drain-timeout-seconds=0");
  Worker worker(flags);
  ASSERT_NE(worker.WaitForLine("ready"), "") << worker.said();
  const auto stub = Stub();
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, LongRequest(4000));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  worker.Signal(SIGTERM);
  while (reader->Read(&event)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_EQ(worker.Wait(), 0);
  EXPECT_THAT(worker.said(), HasSubstr("1 streams were cut off"));
}

TEST_F(WorkerMainTest, ADryRunSaysWhatFitsAndLoadsNothing) {
  std::vector<std::string> args = Flags();
  args.insert(args.end(), {"--dry-run", "--json"});
  const testing::CommandResult fits = testing::RunCommand(DUNLIN_WORKER, args);
  ASSERT_EQ(fits.exit_code, 0) << fits.err;
  const nlohmann::json plan = nlohmann::json::parse(fits.out);
  const int64_t pages = plan.at("pages");
  EXPECT_EQ(pages, 8'000'000 / plan.at("page_bytes").get<int64_t>());
  EXPECT_EQ(plan.at("tokens"), pages * 16);
  EXPECT_EQ(plan.at("full_length_sequences"), pages * 16 / 4096);
  EXPECT_EQ(plan.at("bound"), "the budget");
  EXPECT_GT(plan.at("memory_bytes").get<int64_t>(), 0);
  EXPECT_NE(plan.at("memory_source"), "");
  args.pop_back();
  EXPECT_THAT(testing::RunCommand(DUNLIN_WORKER, args).out, HasSubstr(absl::StrCat("pool         ", pages, " pages")));
  // The same figures as the worker that really starts.
  Worker worker(Flags());
  EXPECT_THAT(worker.WaitForLine("ready"), HasSubstr(absl::StrCat(pages, " pages of 16 tokens"))) << worker.said();
  args.push_back("--kv-cache-memory-bytes=10k");
  const testing::CommandResult refused = testing::RunCommand(DUNLIN_WORKER, args);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("would fit"));
  EXPECT_EQ(refused.out, "");
  EXPECT_EQ(testing::RunCommand(DUNLIN_WORKER, {"--json", "--model", base_ + ".gguf"}).exit_code, 2);
  EXPECT_EQ(testing::RunCommand(DUNLIN_WORKER, {"--dry-run"}).exit_code, 2);
}

TEST_F(WorkerMainTest, BadUsageIsTwoAndABrokenModelOne) {
  Worker bogus({"--bogus"});
  EXPECT_EQ(bogus.Wait(), 2);
  EXPECT_THAT(bogus.said(), HasSubstr("unknown flag --bogus"));
  Worker none({"--listen", "127.0.0.1:0"});
  EXPECT_EQ(none.Wait(), 2);
  std::vector<std::string> flags = Flags();
  flags.insert(flags.end(), {"--device", "cuda"});
  setenv("CUDA_VISIBLE_DEVICES", "", 1);  // whatever this machine has
  Worker cuda(flags);
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(cuda.Wait(), 2);
  EXPECT_THAT(cuda.said(), HasSubstr("--device cuda: "));
  std::ofstream(base_ + ".gguf", std::ios::binary) << "not a model";
  Worker broken(Flags());
  EXPECT_EQ(broken.Wait(), 1);
  EXPECT_THAT(broken.said(), HasSubstr("GGUF"));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(WorkerMainTest, MemoryIsTheWeightsTheirPagesAndLittleMore) {
  const std::string model = testing::DefaultModelPath();
  if (model.empty()) GTEST_SKIP() << "the default model is not here";
  if (testing::ReadFile("/sys/kernel/mm/transparent_hugepage/enabled").find("[always]") != std::string::npos) {
    GTEST_SKIP() << "huge pages everywhere: every thread's stack takes one";
  }
  constexpr int64_t kPool = 2'000'000;  // small, so that what is not the weights shows
  std::vector<std::string> flags = Flags();
  flags.insert(flags.end(), {"--model", model, "--max-model-len=128", "--kv-rounding=nearest",
                             absl::StrCat("--kv-cache-memory-bytes=", kPool)});
  Worker worker(flags);
  ASSERT_NE(worker.WaitForLine("ready"), "") << worker.said();
  const auto stub = Stub();
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, LongRequest(64));
  v1::GenerateResponse event;
  int tokens = 0;
  while (reader->Read(&event)) tokens += event.tokens().ids_size();
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 64);
  // Q4_1 packs into its own size; the weights' arena and the pool end in a huge page each.
  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(model));
  const int64_t bound = file_bytes + kPool + (4 << 20);
  // Tables of the rope and of the vocabulary's size, the cache's log, one row of scratch and logits, the allocator.
  constexpr int64_t kSmall = 8'000'000;
  EXPECT_LT(worker.Memory("RssAnon"), bound + kSmall);
  // A peak above it has the file's largest tensor (the embedding, under a fifth of it) while it is packed, and the
  // program with its libraries.
  constexpr int64_t kProgram = 30'000'000;
  EXPECT_LT(worker.Memory("VmHWM"), bound + kSmall + file_bytes / 5 + kProgram);
  EXPECT_LT(worker.Memory("VmRSS"), bound + kSmall + kProgram) << "the file's pages are given back";
}
#endif

}  // namespace
}  // namespace dunlin::worker
