#include "tools/generate.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/process.h"
#include "dunlin/v1/inference.grpc.pb.h"
#include "tools/child_process.h"
#include "tools/flat_json.h"

namespace dunlin::tools {
namespace {

// `dunlin serve` for the length of one call, on free loopback ports.
class PrivateServer {
 public:
  ~PrivateServer() {
    if (pid_ > 0) {
      kill(pid_, SIGTERM);
      WaitOrKill(pid_, absl::Seconds(20));
    }
    if (!directory_.empty()) RemoveDirectory(directory_);
  }

  absl::StatusOr<std::string> Start(const std::string& model) {
    absl::StatusOr<std::string> directory = MakePrivateDirectory();
    if (!directory.ok()) return directory.status();
    directory_ = *std::move(directory);
    const std::string addresses = directory_ + "/addresses.json";
    absl::StatusOr<pid_t> pid = Spawn(ExecutableDirectory() + "/dunlin",
                                      {"serve", "--model=" + model, "--addresses-file=" + addresses, "--grpc-port=0",
                                       "--admin-port=0", "--metrics-port=0", "--worker-metrics-port=0"},
                                      {SupervisedBy(getpid())});
    if (!pid.ok()) return pid.status();
    pid_ = *pid;
    while (!std::filesystem::exists(addresses)) {
      if (kill(pid_, 0) != 0 || Exited())
        return absl::UnavailableError("the private server did not start (its reason is above)");
      absl::SleepFor(absl::Milliseconds(10));
    }
    std::ifstream in(addresses);
    std::ostringstream text;
    text << in.rdbuf();
    return ParseFlatJson(text.str())["grpc"];
  }

 private:
  bool Exited() {
    siginfo_t info = {};
    return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
  }
  std::string directory_;
  pid_t pid_ = -1;
};

// Cancels the call when Ctrl+C or SIGTERM comes. The signals are blocked in every thread and taken by this one's own.
class CancelOnSignal {
 public:
  explicit CancelOnSignal(grpc::ClientContext* context) {
    sigemptyset(&signals_);
    for (const int s : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals_, s);
    thread_ = std::thread([this, context] {
      int signal = 0;
      sigwait(&signals_, &signal);
      if (signal == SIGUSR1) return;  // the call is over
      interrupted_ = true;
      context->TryCancel();
    });
  }
  ~CancelOnSignal() {
    pthread_kill(thread_.native_handle(), SIGUSR1);
    thread_.join();
  }
  bool interrupted() const { return interrupted_; }

 private:
  sigset_t signals_;
  std::atomic<bool> interrupted_{false};
  std::thread thread_;
};

v1::GenerateRequest MakeRequest(const GenerateOptions& o, const std::string& prompt) {
  v1::GenerateRequest request;
  if (o.chat) {
    if (!o.system.empty()) {
      v1::ChatMessage* message = request.mutable_chat()->add_messages();
      message->set_role("system");
      message->set_content(o.system);
    }
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(prompt);
  } else {
    request.set_prompt(prompt);
  }
  if (o.max_tokens) request.mutable_stopping()->set_max_tokens(*o.max_tokens);
  for (const std::string& s : o.stop) request.mutable_stopping()->add_stop(s);
  if (o.temperature) request.mutable_sampling()->set_temperature(*o.temperature);
  if (o.top_p) request.mutable_sampling()->set_top_p(*o.top_p);
  if (o.seed) request.mutable_sampling()->set_seed(*o.seed);
  return request;
}

int Report(const grpc::Status& status, bool interrupted, const std::string& address) {
  if (interrupted) return 130;
  if (status.ok()) return 0;
  std::cerr << "dunlin generate: " << address << ": " << status.error_message() << " (gRPC status "
            << status.error_code() << ")\n";
  return 1;
}

int Stream(v1::InferenceService::Stub* stub, grpc::ClientContext* context, const v1::GenerateRequest& request,
           const std::string& address) {
  const CancelOnSignal cancel(context);
  const auto reader = stub->Generate(context, request);
  v1::GenerateResponse response;
  bool newline = true;
  while (reader->Read(&response)) {
    const std::string& text = response.delta().text();
    if (text.empty()) continue;
    std::cout << text << std::flush;
    newline = text.back() == '\n';
  }
  if (!newline) std::cout << std::endl;
  return Report(reader->Finish(), cancel.interrupted(), address);
}

int Unary(v1::InferenceService::Stub* stub, grpc::ClientContext* context, v1::GenerateRequest request,
          const std::string& address) {
  const CancelOnSignal cancel(context);
  v1::GenerateUnaryRequest unary;
  *unary.mutable_request() = std::move(request);
  v1::GenerateUnaryResponse response;
  const grpc::Status status = stub->GenerateUnary(context, unary, &response);
  if (status.ok()) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    std::string json;
    if (google::protobuf::util::MessageToJsonString(response, &json, options).ok()) std::cout << json << std::endl;
  }
  return Report(status, cancel.interrupted(), address);
}

}  // namespace

int Generate(const GenerateOptions& options) {
  if (options.address.empty() == options.model.empty()) {
    std::cerr << "dunlin generate: give either --address of a running server or --model FILE\n";
    return 2;
  }
  std::string prompt = options.prompt;
  if (prompt.empty() || prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});

  // Before any thread exists, so that every thread inherits the block.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int s : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals, s);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  PrivateServer server;
  std::string address = options.address;
  if (address.empty()) {
    const absl::StatusOr<std::string> started = server.Start(options.model);
    if (!started.ok()) {
      std::cerr << "dunlin generate: " << started.status().message() << "\n";
      return 1;
    }
    address = *started;
  }
  grpc::ChannelArguments arguments;
  arguments.SetInt("grpc.enable_http_proxy", 0);
  const auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  const auto stub = v1::InferenceService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(options.timeout_seconds)));
  const char* const from_environment = std::getenv("DUNLIN_API_KEY");
  const std::string key = options.api_key.empty() && from_environment != nullptr ? from_environment : options.api_key;
  if (!key.empty()) {
    // A line break would begin another header; gRPC ends the process over it.
    if (!std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7f; })) {
      std::cerr << "dunlin generate: --api-key: not printable ASCII without spaces\n";
      return 2;
    }
    context.AddMetadata("authorization", "Bearer " + key);
  }
  v1::GenerateRequest request = MakeRequest(options, prompt);
  return options.json ? Unary(stub.get(), &context, std::move(request), address)
                      : Stream(stub.get(), &context, request, address);
}

}  // namespace dunlin::tools
