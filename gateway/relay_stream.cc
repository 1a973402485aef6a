#include "gateway/relay_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/status_map.h"
#include "proto/validate.h"

namespace dunlin::gateway {
namespace {

absl::Status Unavailable(absl::string_view reason, absl::string_view message) {
  absl::Status status = absl::UnavailableError(message);
  AttachErrorInfo(reason, {}, &status);
  AttachRetryInfo(absl::Seconds(1), &status);
  return status;
}

absl::Status TokenizerBusy() {
  absl::Status status = absl::ResourceExhaustedError("tokenizer queue is full");
  AttachErrorInfo("TOKENIZER_BUSY", {}, &status);
  AttachRetryInfo(absl::Milliseconds(100), &status);
  AttachQuotaFailure("gateway:tokenizer", "requests waiting to be tokenised", &status);
  return status;
}

}  // namespace

RelayStream::RelayStream(const RelayServices* services, v1::GenerateRequest request, absl::StatusOr<Caller> caller,
                         absl::Time deadline, CallOutlet* outlet)
    : services_(*services),
      request_(std::move(request)),
      caller_(std::move(caller)),
      deadline_(deadline),
      arrived_(services->clock->Now()),
      outlet_(outlet),
      request_id_(request_.request_id().empty() ? services->new_request_id() : request_.request_id()),
      state_(services->tokenizer, services->clock, services->metrics) {}

absl::Status RelayStream::Check() {
  if (!caller_.ok()) return caller_.status();
  if (services_.draining->load()) return Unavailable("DRAINING", "the gateway is draining");
  if (absl::Status status = ValidateGenerateRequest(request_, services_.tokenizer->vocab_size()); !status.ok()) {
    return status;
  }
  if (!request_.model().empty() && request_.model() != services_.model) {
    return absl::NotFoundError(
        absl::StrCat("model '", request_.model(), "' is not served; '", services_.model, "' is"));
  }
  if (services_.workers->ContextTokens() == 0) return Unavailable("NO_WORKER_READY", "no worker is ready");
  return absl::OkStatus();
}

void RelayStream::Start() {
  if (const absl::Status status = Check(); !status.ok()) return Fail(status);
  {
    MutexLock lock(&mu_);
    if (state_.ended()) return;  // cancelled already
    registered_ = services_.calls->Insert(request_id_, weak_from_this());
    counted_ = registered_;
    if (!registered_) state_.End(absl::AlreadyExistsError(absl::StrCat("request_id '", request_id_, "' is in use")));
  }
  Admit();
}

void RelayStream::Admit() {
  const auto on_turn = [weak = weak_from_this()](const absl::Status& status) {
    if (const auto self = weak.lock()) self->OnTurn(status);
  };
  bool admitted = false;
  {
    // Entered under our lock, so that an end that comes at once finds the ticket in place.
    MutexLock lock(&mu_);
    if (!state_.ended()) {
      const Admission::Entry entry = services_.gate->Enter(deadline_, on_turn);
      if (entry.decision == Admission::Decision::kRefused) {
        state_.End(entry.refusal);
      } else {
        ticket_ = entry.ticket;
        queue_position_ = entry.queue_position;
        admitted = entry.decision == Admission::Decision::kAdmitted;
      }
    }
  }
  ReportLoad();
  if (admitted) {
    OnTurn(absl::OkStatus());
  } else {
    Pump();
  }
}

void RelayStream::OnTurn(const absl::Status& status) {
  if (!status.ok()) return Fail(status);
  if (!services_.work->TrySubmit([self = shared_from_this()] { self->BuildAndOpen(); })) Fail(TokenizerBusy());
}

void RelayStream::BuildAndOpen() {
  {
    MutexLock lock(&mu_);
    if (state_.ended()) return;  // cancelled while it waited
  }
  const uint32_t context = services_.workers->ContextTokens();
  if (context == 0) return Fail(Unavailable("NO_WORKER_READY", "no worker is ready"));
  const absl::CivilSecond now = absl::ToCivilSecond(absl::Now(), absl::LocalTimeZone());
  absl::StatusOr<std::vector<uint32_t>> ids = services_.prompts->Build(request_, context, now);
  if (!ids.ok()) return Fail(ids.status());
  RequestPlan plan = MakePlan(request_, services_.sampling_defaults, services_.new_seed(), *std::move(ids), context);
  plan.request_id = request_id_;
  plan.model = services_.model;
  plan.caller = *caller_;
  Open(std::move(plan));
}

void RelayStream::Open(RequestPlan plan) {
  const bool needs_worker = plan.needs_worker();
  std::optional<RoutingDecision> decision;
  if (needs_worker) {
    decision = PickWorker(services_.workers->Views());
    services_.metrics->OnRouted(decision.has_value() ? decision->reason : kRoutingReasons[2]);
    if (!decision.has_value()) return Fail(Unavailable("NO_WORKER_READY", "no worker is ready"));
    plan.worker_id = services_.workers->WorkerName(decision->worker);
  }
  std::shared_ptr<WorkerStream> worker;
  {
    MutexLock lock(&mu_);
    if (state_.ended()) return;
    const absl::Duration waited = services_.clock->Now() - arrived_;
    plan.queue_position = queue_position_;
    if (needs_worker) {
      worker = services_.workers->OpenGenerate(decision->worker, ToWorkerRequest(plan, waited), deadline_,
                                               shared_from_this());
      worker_ = worker;
    }
    state_.Begin(std::move(plan), waited);
  }
  if (worker != nullptr) worker->Start();
  Pump();
}

void RelayStream::OnEvent(const worker::v1::GenerateResponse& event) {
  {
    MutexLock lock(&mu_);
    state_.OnWorkerEvent(event);
  }
  Pump();
}

void RelayStream::OnEnd(const absl::Status& status) {
  {
    MutexLock lock(&mu_);
    worker_.reset();
    state_.OnWorkerEnd(status);
  }
  Pump();
}

void RelayStream::OnWriteDone(bool ok) {
  {
    MutexLock lock(&mu_);
    state_.OnWriteDone(ok);
  }
  Pump();
}

void RelayStream::OnDone() {
  bool counted = false;
  {
    MutexLock lock(&mu_);
    counted = std::exchange(counted_, false);
  }
  if (counted) services_.calls->Done();
}

void RelayStream::OnCancel() {
  const bool late = services_.clock->Now() >= deadline_;
  Fail(late ? absl::DeadlineExceededError("deadline passed") : absl::CancelledError("cancelled by the client"));
}

void RelayStream::Abort() {
  {
    MutexLock lock(&mu_);
    state_.Abort();
  }
  Pump();
}

void RelayStream::Interrupt(absl::string_view reason, absl::string_view message) {
  {
    MutexLock lock(&mu_);
    state_.Interrupt(reason, message);
  }
  Pump();
}

void RelayStream::Fail(const absl::Status& status) {
  {
    MutexLock lock(&mu_);
    state_.End(status);
  }
  Pump();
}

void RelayStream::Pump() {
  while (true) {
    RelayState::Action action = RelayState::Action::kNone;
    std::shared_ptr<WorkerStream> read;
    std::shared_ptr<WorkerStream> cancel;
    absl::Status status;
    const v1::GenerateResponse* message = nullptr;
    bool relayed = false;
    {
      MutexLock lock(&mu_);
      action = state_.Next();
      if (state_.ended()) cancel = std::exchange(worker_, nullptr);
      if (state_.wants_worker_event()) read = worker_;
      message = &state_.message();  // nobody else touches it until its write is done
      status = state_.status();
      relayed = state_.accepted();
    }
    if (cancel != nullptr) cancel->Cancel();
    if (read != nullptr) read->RequestNext();
    switch (action) {
      case RelayState::Action::kNone:
        return;
      case RelayState::Action::kFinish:
        return Complete(status, relayed);
      case RelayState::Action::kWrite:
        if (!outlet_->Write(*message)) return;
        MutexLock lock(&mu_);
        state_.OnWriteDone(true);
    }
  }
}

void RelayStream::Complete(const absl::Status& status, bool relayed) {
  std::optional<AdmissionTicket> ticket;
  bool registered = false;
  {
    MutexLock lock(&mu_);
    ticket = std::exchange(ticket_, std::nullopt);
    registered = std::exchange(registered_, false);
  }
  if (ticket.has_value()) services_.gate->Leave(*ticket);
  if (registered) services_.calls->Erase(request_id_);
  ReportLoad();
  const bool known_model = request_.model().empty() || request_.model() == services_.model;
  services_.metrics->OnRequestEnd(known_model, status.code(), services_.clock->Now() - arrived_);
  if (!status.ok() && !relayed && !absl::IsCancelled(status)) services_.metrics->OnRejected(status);
  outlet_->Finish(status);
}

void RelayStream::ReportLoad() {
  const AdmissionGate::Counts counts = services_.gate->counts();
  services_.metrics->SetLoad(counts.active, counts.queued);
}

}  // namespace dunlin::gateway
