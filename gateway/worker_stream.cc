#include "gateway/worker_stream.h"

#include <utility>

#include "base/mutex.h"
#include "gateway/worker_channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "grpcpp/support/client_callback.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

class GenerateReader final : public grpc::ClientReadReactor<worker::v1::GenerateResponse>,
                             public WorkerStream,
                             public std::enable_shared_from_this<GenerateReader> {
 public:
  GenerateReader(worker::v1::WorkerService::Stub* stub, worker::v1::GenerateRequest request, absl::Time deadline,
                 std::shared_ptr<WorkerStreamHandler> handler, std::shared_ptr<std::atomic<uint32_t>> relayed,
                 std::function<void()> on_done)
      : stub_(stub),
        request_(std::move(request)),
        handler_(std::move(handler)),
        relayed_(std::move(relayed)),
        on_done_(std::move(on_done)) {
    if (deadline != absl::InfiniteFuture()) context_->set_deadline(absl::ToChronoTime(deadline));
    relayed_->fetch_add(1);
  }

  void Start() override {
    self_ = shared_from_this();
    stub_->async()->Generate(context_.get(), &request_, this);
    // Reads are also started from outside reactions; the hold keeps OnDone away until the reads have ended.
    AddHold();
    StartRead(&response_);
    StartCall();
  }

  void RequestNext() override ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(&mu_);
      if (ended_) return;
      if (busy_) {
        requested_ = true;
        return;
      }
      busy_ = true;
    }
    StartRead(&response_);
  }

  void Cancel() override ABSL_LOCKS_EXCLUDED(mu_) {
    std::shared_ptr<grpc::ClientContext> context;
    {
      MutexLock lock(&mu_);
      if (cancelled_ || ended_) return;
      cancelled_ = true;
      context = context_;
    }
    context->TryCancel();
    RequestNext();  // only a read that fails tells us that the reads are over
  }

  void OnReadDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_) {
    bool cancelled = false;
    {
      MutexLock lock(&mu_);
      cancelled = cancelled_;
      if (!ok) ended_ = true;
    }
    if (!ok) return RemoveHold();
    if (!cancelled) handler_->OnEvent(response_);
    {
      // busy_ stays set while the handler runs, so that response_ is not overwritten and events keep their order.
      MutexLock lock(&mu_);
      if (!requested_ && !cancelled_) {
        busy_ = false;
        return;
      }
      requested_ = false;
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    relayed_->fetch_sub(1);
    handler_->OnEnd(FromGrpcStatus(status));
    handler_.reset();
    {
      // Before on_done_, whoever else still holds the stream: the context holds the channel.
      MutexLock lock(&mu_);
      context_.reset();
    }
    const std::shared_ptr<GenerateReader> last = std::move(self_);
    on_done_();
  }

 private:
  worker::v1::WorkerService::Stub* const stub_;
  const worker::v1::GenerateRequest request_;
  std::shared_ptr<WorkerStreamHandler> handler_;
  const std::shared_ptr<std::atomic<uint32_t>> relayed_;
  const std::function<void()> on_done_;
  // Until OnDone. Set before Start, so only what may come after OnDone needs the lock.
  std::shared_ptr<grpc::ClientContext> context_ = std::make_shared<grpc::ClientContext>();
  worker::v1::GenerateResponse response_;
  std::shared_ptr<GenerateReader> self_;  // from Start to OnDone

  Mutex mu_;
  bool busy_ ABSL_GUARDED_BY(mu_) = true;  // a read is outstanding or its event is being handled; Start reads first
  bool requested_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

std::shared_ptr<WorkerStream> MakeWorkerStream(worker::v1::WorkerService::Stub* stub,
                                               worker::v1::GenerateRequest request, absl::Time deadline,
                                               std::shared_ptr<WorkerStreamHandler> handler,
                                               std::shared_ptr<std::atomic<uint32_t>> relayed,
                                               std::function<void()> on_done) {
  return std::make_shared<GenerateReader>(stub, std::move(request), deadline, std::move(handler), std::move(relayed),
                                          std::move(on_done));
}

std::shared_ptr<grpc::Channel> CreateWorkerChannel(const std::string& address) {
  grpc::ChannelArguments args;
  // Without keepalive a frozen worker is invisible; with it, it is lost after two seconds.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // also the time one attempt may take
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetMaxReceiveMessageSize(-1);  // log-probabilities of a long prompt come in one message from our own worker
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

}  // namespace dunlin::gateway
