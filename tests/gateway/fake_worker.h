// A worker that does what a test's script says, behind a real gRPC listener on a free loopback port.
// Thread-safety: thread-safe. The script runs on a gRPC thread per call and may block.
// Errors: CHECK-fails when no port can be bound.
#ifndef DUNLIN_TESTS_GATEWAY_FAKE_WORKER_H_
#define DUNLIN_TESTS_GATEWAY_FAKE_WORKER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/cache_event_log.h"
#include "base/mutex.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"

namespace dunlin::testing {

// One call as its script sees it.
class FakeCall {
 public:
  FakeCall(grpc::ServerContext* context, const worker::v1::GenerateRequest* request,
           grpc::ServerWriter<worker::v1::GenerateResponse>* writer)
      : context_(context), request_(request), writer_(writer) {}

  const worker::v1::GenerateRequest& request() const { return *request_; }
  bool cancelled() const { return context_->IsCancelled(); }
  std::chrono::system_clock::time_point deadline() const { return context_->deadline(); }
  // Each returns false when the gateway is gone.
  bool Scheduled(uint32_t cached_prompt_tokens = 0);
  bool Tokens(absl::string_view text, uint32_t index = 0);  // one token per byte, in one message
  bool Finished(v1::FinishReason reason, uint32_t index = 0);
  bool Summary();
  bool Send(const worker::v1::GenerateResponse& event) { return writer_->Write(event); }
  // Blocks until the gateway cancelled the call.
  void WaitUntilCancelled();

 private:
  grpc::ServerContext* const context_;
  const worker::v1::GenerateRequest* const request_;
  grpc::ServerWriter<worker::v1::GenerateResponse>* const writer_;
};

using FakeScript = std::function<grpc::Status(FakeCall*)>;

// Scheduled, `text` token by token, EOS, summary: what a worker does with a short answer.
FakeScript Answer(std::string text);

class FakeWorker {
 public:
  struct Options {
    std::string worker_id = "worker0";
    std::string served_model_name = "tiny";
    uint32_t max_model_len = 256;
    int port = 0;
    bool serving = true;
    size_t hashes_per_answer = 1000;  // of GetLoad
  };
  FakeWorker(const Options& options, FakeScript script);
  ~FakeWorker();  // cancels open calls

  const std::string& address() const { return address_; }
  int port() const { return port_; }
  void SetScript(FakeScript script);
  void SetServing(bool serving);
  // What GetLoad reports as the worker's cache.
  CacheEventLog* cache_events();
  std::vector<worker::v1::GenerateRequest> requests() const;
  int flushes() const;
  // Blocks until `count` calls were cancelled by the gateway (WaitUntilCancelled returned).
  void WaitForCancelled(int count);
  void CountCancelled();
  // Ends the listener and every call at once, as a killed process would.
  void Kill();

 private:
  class Service;
  struct Servers;
  std::unique_ptr<Servers> servers_;
  std::string address_;
  int port_ = 0;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_GATEWAY_FAKE_WORKER_H_
