#include "worker/service/generate_call.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"
#include "proto/status_map.h"
#include "worker/service/choice_merger.h"
#include "worker/service/write_pump.h"

namespace dunlin::worker {
namespace {

using Reactor = grpc::ServerWriteReactor<v1::GenerateResponse>;

std::vector<std::shared_ptr<TokenStream>> StreamsOf(const std::vector<NewSequence>& sequences) {
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (const NewSequence& sequence : sequences) streams.push_back(sequence.stream);
  return streams;
}

size_t PromptRecords(const NewSequence& first) { return first.num_prompt_logprobs < 0 ? 0 : first.prompt.size() - 1; }

// What outlives the reactor: mailboxes may still report while gRPC deletes it. The mailboxes hold this weakly.
class Relay : public std::enable_shared_from_this<Relay> {
 public:
  Relay(Engine* engine, Reactor* reactor, const std::vector<NewSequence>& sequences)
      : engine_(engine),
        reactor_(reactor),
        streams_(StreamsOf(sequences)),
        merger_(streams_, PromptRecords(sequences.front())) {}

  void Submit(std::vector<NewSequence> sequences) {
    // Nothing is written before everything is submitted: a refusal must be known to the merger before its first look.
    CHECK(pump_.OnNews()) << "a new pump is idle";
    for (size_t i = 0; i < sequences.size(); ++i) {
      sequences[i].stream->SetNotify([weak = weak_from_this()] {
        if (const std::shared_ptr<Relay> self = weak.lock()) self->OnNews();
      });
      if (const absl::Status status = engine_->Submit(std::move(sequences[i])); !status.ok()) {
        merger_.NeverBegan(i, status);
        break;
      }
    }
    Build();
  }

  void OnNews() {
    if (pump_.OnNews()) Build();
  }
  void OnWriteDone(bool ok) {
    pump_.OnWriteDone();
    if (!ok) {
      merger_.Discard();
      CancelAll();
    }
    Build();
  }
  void CancelAll() {
    for (const std::shared_ptr<TokenStream>& stream : streams_) stream->Cancel();
    engine_->Wake();
  }

 private:
  // The reactor may be gone once StartWrite or Finish was called: nothing may follow them here.
  void Build() {
    while (true) {
      WritePump::Found found = WritePump::Found::kNothing;
      if (merger_.Next(&message_)) {
        found = WritePump::Found::kMessage;
      } else if (merger_.ended()) {
        found = WritePump::Found::kEnd;
      }
      if (merger_.failed() && !cancelled_others_) {
        cancelled_others_ = true;
        CancelAll();
      }
      // After kFinish the merger is nobody's any more, so its verdict is taken before.
      const grpc::Status status = found == WritePump::Found::kEnd ? ToGrpcStatus(merger_.status()) : grpc::Status();
      switch (pump_.Built(found)) {
        case WritePump::Next::kWrite:
          return reactor_->StartWrite(&message_);
        case WritePump::Next::kFinish:
          return reactor_->Finish(status);
        case WritePump::Next::kWait:
          return;
        case WritePump::Next::kBuildAgain:
          break;
      }
    }
  }

  Engine* const engine_;
  Reactor* const reactor_;
  const std::vector<std::shared_ptr<TokenStream>> streams_;
  WritePump pump_;
  // The builder's alone.
  ChoiceMerger merger_;
  v1::GenerateResponse message_;
  bool cancelled_others_ = false;
};

class GenerateReactor final : public Reactor {
 public:
  GenerateReactor(Engine* engine, ActiveCalls* active, std::vector<NewSequence> sequences)
      : active_(active), relay_(std::make_shared<Relay>(engine, this, sequences)) {
    active_->Enter();
    // A copy: the relay must live until Submit returns, whatever becomes of this.
    const std::shared_ptr<Relay> relay = relay_;
    relay->Submit(std::move(sequences));
  }

 private:
  void OnWriteDone(bool ok) override {
    const std::shared_ptr<Relay> relay = relay_;
    relay->OnWriteDone(ok);
  }
  void OnCancel() override {
    const std::shared_ptr<Relay> relay = relay_;
    relay->CancelAll();
  }
  void OnDone() override {
    ActiveCalls* const active = active_;
    delete this;
    active->Leave();
  }

  ActiveCalls* const active_;
  const std::shared_ptr<Relay> relay_;
};

class RefusedReactor final : public Reactor {
 public:
  explicit RefusedReactor(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

 private:
  void OnDone() override { delete this; }
};

}  // namespace

Reactor* StartGenerate(Engine* engine, ActiveCalls* active, std::vector<NewSequence> sequences) {
  CHECK(!sequences.empty()) << "a request without choices";
  return new GenerateReactor(engine, active, std::move(sequences));
}

Reactor* RefuseGenerate(const absl::Status& status) {
  CHECK(!status.ok()) << "a refusal needs a reason";
  return new RefusedReactor(status);
}

}  // namespace dunlin::worker
