#include "tools/bench/load_bench.h"

#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <latch>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "dunlin/v1/inference.grpc.pb.h"

namespace dunlin::tools {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr int kRandomIds = 1000;  // every vocabulary has as many
constexpr size_t kRandomSource = 65536;
constexpr size_t kStride = 131;  // between the starts of prompts; a prime
constexpr int kMostRequests = 4096;

double MillisecondsBetween(SteadyClock::time_point begin, SteadyClock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - begin).count();
}

double ProcessorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

absl::StatusOr<std::vector<uint32_t>> ReadSource(const LoadBenchOptions& options) {
  std::vector<uint32_t> ids;
  if (options.ids.empty()) {
    std::mt19937_64 random(options.seed);
    for (size_t i = 0; i < kRandomSource; ++i) ids.push_back(static_cast<uint32_t>(random() % kRandomIds));
    return ids;
  }
  std::ifstream in(options.ids, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot open ", options.ids));
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    uint32_t id = 0;
    for (size_t b = 4; b-- > 0;) id = id << 8 | static_cast<uint8_t>(bytes[i + b]);
    ids.push_back(id);
  }
  return ids;
}

absl::Status CheckOptions(const LoadBenchOptions& o) {
  const int requests = o.burst > 0 ? o.burst : o.requests;
  if (o.address.empty()) return absl::InvalidArgumentError("--address is required");
  if (o.burst < 0 || requests < 1 || requests > kMostRequests) {
    return absl::InvalidArgumentError(absl::StrCat("--burst, --requests: 1 to ", kMostRequests));
  }
  if (o.burst == 0 && !(o.rate > 0)) return absl::InvalidArgumentError("--rate: more than 0");
  if (o.prompt_tokens < 1 || o.shared_tokens < 0 || o.max_tokens < 1 || o.first < 0) {
    return absl::InvalidArgumentError(
        "--prompt-tokens and --max-tokens: 1 or more; --shared-tokens and --first: 0 or more");
  }
  return absl::OkStatus();
}

class LoadBench {
 public:
  explicit LoadBench(const LoadBenchOptions& options) : options_(options) {
    grpc::ChannelArguments arguments;
    arguments.SetInt("grpc.enable_http_proxy", 0);
    channel_ = grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::InferenceService::NewStub(channel_);
    const char* const from_environment = std::getenv("DUNLIN_API_KEY");
    key_ = options.api_key.empty() && from_environment != nullptr ? from_environment : options.api_key;
  }

  absl::StatusOr<LoadReport> Run() {
    ASSIGN_OR_RETURN(const std::vector<uint32_t> source, ReadSource(options_));
    const int count = options_.burst > 0 ? options_.burst : options_.requests;
    std::vector<v1::GenerateRequest> requests;
    for (int i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, MakePrompt(source, options_, options_.first + i));
      requests.push_back(MakeRequest(ids));
    }
    if (!channel_->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
      return absl::UnavailableError(absl::StrCat("no connection to ", options_.address));
    }
    std::vector<LoadRecord> records(static_cast<size_t>(count));
    const double cpu = ProcessorSeconds();
    const double seconds = options_.burst > 0 ? RunBurst(requests, &records) : RunOpenLoop(requests, &records);
    LoadReport report = Summarize(records, seconds, options_);
    report.client_cpu_seconds = ProcessorSeconds() - cpu;
    return report;
  }

  std::string first_error() ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    return first_error_;
  }

 private:
  v1::GenerateRequest MakeRequest(const std::vector<uint32_t>& ids) const {
    v1::GenerateRequest request;
    request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(options_.max_tokens));
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_output()->set_token_ids(true);
    return request;
  }

  double RunBurst(const std::vector<v1::GenerateRequest>& requests, std::vector<LoadRecord>* records) {
    std::latch start(1);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < requests.size(); ++i) {
      threads.emplace_back([&, i] {
        start.wait();
        (*records)[i] = Call(requests[i]);
      });
    }
    const SteadyClock::time_point begin = SteadyClock::now();
    start.count_down();
    for (std::thread& t : threads) t.join();
    return MillisecondsBetween(begin, SteadyClock::now()) / 1e3;
  }

  double RunOpenLoop(const std::vector<v1::GenerateRequest>& requests, std::vector<LoadRecord>* records) {
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> gap(options_.rate);
    std::vector<std::thread> threads;
    const SteadyClock::time_point begin = SteadyClock::now();
    double at = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      std::this_thread::sleep_until(
          begin + std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(at)));
      threads.emplace_back([&, i] { (*records)[i] = Call(requests[i]); });
      at += gap(random);
    }
    for (std::thread& t : threads) t.join();
    return MillisecondsBetween(begin, SteadyClock::now()) / 1e3;
  }

  LoadRecord Call(const v1::GenerateRequest& request) ABSL_LOCKS_EXCLUDED(mutex_) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(static_cast<int64_t>(1e3 * options_.timeout_seconds)));
    if (!key_.empty()) context.AddMetadata("authorization", "Bearer " + key_);
    LoadRecord record;
    const SteadyClock::time_point begin = SteadyClock::now();
    SteadyClock::time_point last = begin;
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      const int tokens = response.has_delta() ? response.delta().token_ids_size() : 0;
      if (tokens == 0) continue;
      const SteadyClock::time_point now = SteadyClock::now();
      if (record.tokens == 0) {
        record.ttft_ms = MillisecondsBetween(begin, now);
      } else {
        record.itl_ms.insert(record.itl_ms.end(), static_cast<size_t>(tokens), MillisecondsBetween(last, now) / tokens);
      }
      record.tokens += tokens;
      last = now;
    }
    const grpc::Status status = reader->Finish();
    record.ok = status.ok() && record.tokens == options_.max_tokens;
    if (!record.ok) {
      const absl::MutexLock lock(&mutex_);
      if (first_error_.empty()) {
        first_error_ =
            status.ok() ? absl::StrCat("a stream ended after ", record.tokens, " tokens") : status.error_message();
      }
    }
    return record;
  }

  const LoadBenchOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::string key_;
  absl::Mutex mutex_;
  std::string first_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::vector<uint32_t>> MakePrompt(const std::vector<uint32_t>& source, const LoadBenchOptions& options,
                                                 int number) {
  const auto shared = static_cast<size_t>(options.shared_tokens);
  const auto own = static_cast<size_t>(options.prompt_tokens);
  if (source.size() < shared + own) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompts of ", shared + own, " tokens from a source of ", source.size()));
  }
  const size_t begin = shared + static_cast<size_t>(number) * kStride % (source.size() - shared - own + 1);
  std::vector<uint32_t> ids(source.begin(), source.begin() + static_cast<ptrdiff_t>(shared));
  ids.insert(ids.end(), source.begin() + static_cast<ptrdiff_t>(begin),
             source.begin() + static_cast<ptrdiff_t>(begin + own));
  return ids;
}

int RunLoadBench(const LoadBenchOptions& options, std::ostream& out, std::ostream& err) {
  const absl::Status checked = CheckOptions(options);
  if (!checked.ok()) {
    err << "dunlin bench load: " << checked.message() << "\n";
    return 2;
  }
  LoadBench bench(options);
  const absl::StatusOr<LoadReport> report = bench.Run();
  if (!report.ok()) {
    err << "dunlin bench load: " << report.status().message() << "\n";
    return 1;
  }
  out << (options.json ? report->Json() : report->Table());
  if (report->failed == 0) return 0;
  err << "dunlin bench load: " << report->failed << " requests failed; the first: " << bench.first_error() << "\n";
  return 1;
}

}  // namespace dunlin::tools
