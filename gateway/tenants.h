// Who is calling: from a call's metadata to its tenant and priority, and the cache namespace that keeps tenants apart.
// Thread-safety: Tenants is constant after Create; the rest is pure functions.
// Owns: digests of the API keys; the keys themselves are not kept.
// Errors: Create: kInvalidArgument naming the flag, never a key. Identify: kUnauthenticated for a missing or wrong key,
// kInvalidArgument naming the metadata for a priority or tenant that is not allowed.
// Cost: one SHA-256 per call and one comparison per key, of constant time whatever is presented. Source: ours.
#ifndef DUNLIN_GATEWAY_TENANTS_H_
#define DUNLIN_GATEWAY_TENANTS_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::gateway {

struct Caller {
  // "" without keys and tenant names: everybody is one tenant. Else a digest, equal on every replica with the same
  // configuration, from which neither key nor name can be read back.
  std::string tenant;
  int32_t priority = 0;
};

// Every value that a call brought under a name; all of them count, so that none can be hidden behind another.
struct CallerMetadata {
  std::vector<absl::string_view> authorization;
  std::vector<absl::string_view> tenant;    // x-dunlin-tenant
  std::vector<absl::string_view> priority;  // x-dunlin-priority
};

class Tenants {
 public:
  // No keys: every call is let in. Keys: printable ASCII without spaces, 1 to limits::kMaxApiKeyBytes bytes, all
  // different. trust_tenant_header: the callers are a proxy that names its clients; a name counts within the key that
  // it came with, so one key's holder never reaches another's tenants.
  static absl::StatusOr<Tenants> Create(const std::vector<std::string>& api_keys, bool trust_tenant_header);

  absl::StatusOr<Caller> Identify(const CallerMetadata& metadata) const;

 private:
  using Digest = std::array<uint8_t, 32>;  // SHA-256

  std::vector<Digest> keys_;
  bool trust_tenant_header_ = false;
};

// Where the prefixes of this tenant and client-chosen salt are cached. Different pairs never share a namespace: the
// tenant, which no client chooses, comes first with its length. tenant: of a Caller.
std::string CacheNamespace(absl::string_view tenant, absl::string_view salt);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_TENANTS_H_
