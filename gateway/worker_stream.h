// One Generate call on a worker as a client reactor behind the WorkerStream interface: at most one read outstanding,
// reading stops while the client is slow, so that HTTP/2 flow control pauses the worker's side of this stream alone.
// Thread-safety: thread-safe.  Owns: its call; keeps itself alive until it ended.  Borrows: the stub.
// Source: gRPC's callback API rules (reads from outside reactions need a hold).
#ifndef DUNLIN_GATEWAY_WORKER_STREAM_H_
#define DUNLIN_GATEWAY_WORKER_STREAM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"
#include "gateway/worker_pool.h"

namespace dunlin::gateway {

// relayed counts open streams. on_done runs after the handler heard of the end; nothing of the stream is used after it.
std::shared_ptr<WorkerStream> MakeWorkerStream(worker::v1::WorkerService::Stub* stub,
                                               worker::v1::GenerateRequest request, absl::Time deadline,
                                               std::shared_ptr<WorkerStreamHandler> handler,
                                               std::shared_ptr<std::atomic<uint32_t>> relayed,
                                               std::function<void()> on_done);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_WORKER_STREAM_H_
