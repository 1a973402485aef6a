// The limits of public request fields, in one place: proto/validate.cc enforces them, documentation quotes them.
// Thread-safety: constants.  Source: ours (the public contract).
#ifndef DUNLIN_PROTO_LIMITS_H_
#define DUNLIN_PROTO_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace dunlin::limits {

inline constexpr float kMaxTemperature = 10.0f;
inline constexpr float kMaxAbsPenalty = 2.0f;          // presence_penalty, frequency_penalty
inline constexpr float kMaxRepetitionPenalty = 10.0f;  // (0, 10]
inline constexpr uint32_t kMaxChoices = 16;
inline constexpr uint32_t kMaxLogprobs = 20;  // also prompt_logprobs
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr int kMaxStopTokenIds = 256;
inline constexpr size_t kMaxTokenListEntries = 1024;  // logit_bias, allowed_token_ids, banned_token_ids
inline constexpr uint32_t kMaxDraftTokens = 16;       // speculation.max_draft_tokens, --num-speculative-tokens
inline constexpr size_t kMaxNameBytes = 128;          // request_id, cache.salt, adapter, model

inline constexpr size_t kMaxApiKeyBytes = 256;
inline constexpr size_t kMaxTenantBytes = 64;  // the server's own name of a tenant; what clients may know is hashed
// What separates the prefix caches of tenants and salts; see gateway/tenants.h.
inline constexpr size_t kMaxCacheNamespaceBytes = 1 + kMaxTenantBytes + kMaxNameBytes;
inline constexpr int32_t kMaxAbsPriority = 2;

// One gRPC message. It is checked after the bytes were buffered, so listeners also carry a resource quota.
inline constexpr int kMaxRequestBytes = 4 << 20;
// A rich error must fit into gRPC's 8 KiB of trailers beside its message.
inline constexpr int kMaxReportedViolations = 8;
inline constexpr size_t kMaxStatusMessageBytes = 1024;

}  // namespace dunlin::limits

#endif  // DUNLIN_PROTO_LIMITS_H_
