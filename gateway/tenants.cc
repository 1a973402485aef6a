#include "gateway/tenants.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "proto/limits.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

constexpr absl::string_view kTenantHeader = "x-dunlin-tenant";
constexpr absl::string_view kPriorityHeader = "x-dunlin-priority";
constexpr size_t kTenantDigestBytes = 16;

std::array<uint8_t, 32> Sha256(absl::string_view text) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

// "kind" separates what is digested for different purposes.
std::string TenantOf(absl::string_view kind, std::span<const uint8_t> key, absl::string_view name) {
  const std::string text = absl::StrCat("dunlin ", kind, ":",
                                        absl::string_view(reinterpret_cast<const char*>(key.data()), key.size()), name);
  const auto digest = Sha256(text);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), kTenantDigestBytes));
}

bool IsPrintableWord(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

absl::Status Unauthenticated(absl::string_view message) {
  absl::Status status = absl::UnauthenticatedError(message);
  AttachErrorInfo("UNAUTHENTICATED", {}, &status);
  return status;
}

// The key of "Bearer KEY"; the scheme's case does not matter (RFC 7235).
std::optional<absl::string_view> BearerKey(absl::string_view authorization) {
  const size_t space = authorization.find(' ');
  if (space == absl::string_view::npos || !absl::EqualsIgnoreCase(authorization.substr(0, space), "bearer")) {
    return std::nullopt;
  }
  return authorization.substr(space + 1);
}

absl::StatusOr<int32_t> ParsePriority(const std::vector<absl::string_view>& values) {
  if (values.empty()) return 0;
  constexpr int32_t kMax = limits::kMaxAbsPriority;
  int32_t priority = 0;
  // SimpleAtoi skips spaces, which a number must not have.
  const bool good = values.size() == 1 && IsPrintableWord(values[0]) && absl::SimpleAtoi(values[0], &priority) &&
                    priority >= -kMax && priority <= kMax;
  if (good) return priority;
  return BadRequestError(
      {{std::string(kPriorityHeader), absl::StrCat("must be one whole number between ", -kMax, " and ", kMax)}});
}

}  // namespace

absl::StatusOr<Tenants> Tenants::Create(const std::vector<std::string>& api_keys, bool trust_tenant_header) {
  Tenants tenants;
  tenants.trust_tenant_header_ = trust_tenant_header;
  for (size_t i = 0; i < api_keys.size(); ++i) {
    const std::string& key = api_keys[i];
    if (key.empty() || key.size() > limits::kMaxApiKeyBytes || !IsPrintableWord(key)) {
      return absl::InvalidArgumentError(absl::StrCat("--api-key: key ", i + 1, " of ", api_keys.size(), " is not 1 to ",
                                                     limits::kMaxApiKeyBytes,
                                                     " bytes of printable ASCII without spaces"));
    }
    const Digest digest = Sha256(key);
    if (std::find(tenants.keys_.begin(), tenants.keys_.end(), digest) != tenants.keys_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--api-key: key ", i + 1, " of ", api_keys.size(), " was given before"));
    }
    tenants.keys_.push_back(digest);
  }
  return tenants;
}

absl::StatusOr<Caller> Tenants::Identify(const CallerMetadata& metadata) const {
  Caller caller;
  std::span<const uint8_t> key;
  if (!keys_.empty()) {
    if (metadata.authorization.empty()) return Unauthenticated("an API key is needed (authorization: Bearer KEY)");
    if (metadata.authorization.size() > 1) return Unauthenticated("more than one authorization was sent");
    const std::optional<absl::string_view> presented = BearerKey(metadata.authorization[0]);
    if (!presented.has_value()) return Unauthenticated("authorization is not of the form: Bearer KEY");
    // Digests have one length, and every one is compared in full: time tells nothing about a key.
    const Digest digest = Sha256(*presented);
    for (const Digest& known : keys_) {
      if (CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0) key = known;
    }
    if (key.empty()) return Unauthenticated("the API key is not known");
    caller.tenant = TenantOf("key", key, "");
  }
  if (trust_tenant_header_ && !metadata.tenant.empty()) {
    const absl::string_view name = metadata.tenant[0];
    if (metadata.tenant.size() > 1 || name.empty() || name.size() > limits::kMaxNameBytes || !IsPrintableWord(name)) {
      return BadRequestError({{std::string(kTenantHeader),
                               absl::StrCat("must be one word of 1 to ", limits::kMaxNameBytes, " printable bytes")}});
    }
    caller.tenant = TenantOf("name", key, name);
  }
  ASSIGN_OR_RETURN(caller.priority, ParsePriority(metadata.priority));
  return caller;
}

std::string CacheNamespace(absl::string_view tenant, absl::string_view salt) {
  CHECK_LE(tenant.size(), limits::kMaxTenantBytes);
  return absl::StrCat(std::string(1, static_cast<char>(tenant.size())), tenant, salt);
}

}  // namespace dunlin::gateway
