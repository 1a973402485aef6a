// One gRPC listener with the limits that every listener of ours has, built from the services it carries.
// Thread-safety: none.  Owns: nothing; services must outlive the server.
// Errors: kUnavailable naming the address when it cannot be bound.
// Source: gRPC 1.51's channel arguments; the values bound what one peer can make the process hold.
#ifndef DUNLIN_GATEWAY_LISTENER_H_
#define DUNLIN_GATEWAY_LISTENER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace dunlin::gateway {

struct Listener {
  std::unique_ptr<grpc::Server> server;
  std::string address;  // as bound
};

absl::StatusOr<Listener> OpenListener(const std::string& host, uint32_t port, bool reflection,
                                      const std::vector<grpc::Service*>& services);

// "host:port", with brackets around an IPv6 address.
std::string JoinHostPort(absl::string_view host, uint32_t port);
bool IsLoopback(absl::string_view host);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_LISTENER_H_
