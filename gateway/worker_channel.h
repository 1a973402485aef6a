// The channel to one worker: its own connection, quick to notice a frozen or killed worker, quick to come back.
// Thread-safety: thread-safe.  Errors: none; an address that cannot be reached shows in the calls.
// Source: gRPC's keepalive, backoff and channel argument documents.
#ifndef DUNLIN_GATEWAY_WORKER_CHANNEL_H_
#define DUNLIN_GATEWAY_WORKER_CHANNEL_H_

#include <memory>
#include <string>

namespace grpc {
class Channel;
}

namespace dunlin::gateway {

std::shared_ptr<grpc::Channel> CreateWorkerChannel(const std::string& address);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_WORKER_CHANNEL_H_
