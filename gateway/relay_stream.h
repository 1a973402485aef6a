// One Generate call from arrival to end: validate, admit, build the prompt (on the work pool), route, relay. The gRPC
// reactor in front of it only moves messages (CallOutlet); the worker's stream behind it is a WorkerStream. No gRPC in
// here. Thread-safety: thread-safe; never blocks, never tokenises on the caller's thread. Owns: the call's RelayState.
// Borrows: RelayServices and the outlet, until the outlet's Finish was called. Errors: every refusal and every end is
// one absl::Status, given to the outlet's Finish exactly once.  Source: ours.
#ifndef DUNLIN_GATEWAY_RELAY_STREAM_H_
#define DUNLIN_GATEWAY_RELAY_STREAM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "dunlin/v1/inference.pb.h"
#include "gateway/active_calls.h"
#include "gateway/admission_gate.h"
#include "gateway/metrics.h"
#include "gateway/relay_state.h"
#include "gateway/request_plan.h"
#include "gateway/tenants.h"
#include "gateway/text/prompt_builder.h"
#include "gateway/work_pool.h"
#include "gateway/worker_pool.h"

namespace dunlin::gateway {

class RelayStream;

// Where a call's messages go. Calls come one at a time; the message stays valid until OnWriteDone.
class CallOutlet {
 public:
  virtual ~CallOutlet() = default;
  // True: written already. False: RelayStream::OnWriteDone follows.
  virtual bool Write(const v1::GenerateResponse& message) = 0;
  // Last call; the outlet may be gone when it returns.
  virtual void Finish(const absl::Status& status) = 0;
};

// What every call uses. Pointers are never null and outlive all calls.
struct RelayServices {
  std::string model;
  SamplingDefaults sampling_defaults;
  std::function<std::string()> new_request_id;  // thread-safe
  std::function<uint64_t()> new_seed;           // of requests that bring none; thread-safe
  const model::Tokenizer* tokenizer = nullptr;
  const PromptBuilder* prompts = nullptr;
  const Clock* clock = nullptr;
  const Tenants* tenants = nullptr;
  AdmissionGate* gate = nullptr;
  WorkPool* work = nullptr;
  WorkerPool* workers = nullptr;
  GatewayMetrics* metrics = nullptr;
  ActiveCalls<RelayStream>* calls = nullptr;
  const std::atomic<bool>* draining = nullptr;
};

class RelayStream final : public WorkerStreamHandler, public std::enable_shared_from_this<RelayStream> {
 public:
  // caller: not OK = the call ends with that status. deadline: InfiniteFuture = none.
  RelayStream(const RelayServices* services, v1::GenerateRequest request, absl::StatusOr<Caller> caller,
              absl::Time deadline, CallOutlet* outlet);
  ~RelayStream() override = default;

  void Start() ABSL_LOCKS_EXCLUDED(mu_);  // once, first
  void OnWriteDone(bool ok) ABSL_LOCKS_EXCLUDED(mu_);
  void OnCancel() ABSL_LOCKS_EXCLUDED(mu_);  // the client cancelled, or its deadline passed
  void OnDone() ABSL_LOCKS_EXCLUDED(mu_);    // the end has been sent; the last call
  void Abort() ABSL_LOCKS_EXCLUDED(mu_);     // an operator ends it in good order
  void Interrupt(absl::string_view reason, absl::string_view message) ABSL_LOCKS_EXCLUDED(mu_);

  void OnEvent(const worker::v1::GenerateResponse& event) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnEnd(const absl::Status& status) override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  absl::Status Check();
  void Admit() ABSL_LOCKS_EXCLUDED(mu_);
  void OnTurn(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  void BuildAndOpen() ABSL_LOCKS_EXCLUDED(mu_);
  void Open(RequestPlan plan) ABSL_LOCKS_EXCLUDED(mu_);
  void Fail(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  // Performs what the state asks for until nothing is left to do now.
  void Pump() ABSL_LOCKS_EXCLUDED(mu_);
  void Complete(const absl::Status& status, bool relayed) ABSL_LOCKS_EXCLUDED(mu_);
  void ReportLoad();

  const RelayServices& services_;
  const v1::GenerateRequest request_;
  const absl::StatusOr<Caller> caller_;
  const absl::Time deadline_;
  const absl::Time arrived_;
  CallOutlet* const outlet_;
  const std::string request_id_;

  Mutex mu_;
  RelayState state_ ABSL_GUARDED_BY(mu_);
  bool registered_ ABSL_GUARDED_BY(mu_) = false;  // its id is in services_.calls
  bool counted_ ABSL_GUARDED_BY(mu_) = false;     // among the calls that are not done there
  std::optional<AdmissionTicket> ticket_ ABSL_GUARDED_BY(mu_);
  uint32_t queue_position_ ABSL_GUARDED_BY(mu_) = 0;
  std::shared_ptr<WorkerStream> worker_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_RELAY_STREAM_H_
