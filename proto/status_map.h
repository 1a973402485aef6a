// absl::Status <-> grpc::Status, with google.rpc details (BadRequest, ErrorInfo, RetryInfo, QuotaFailure) carried as
// absl payloads inside the process and as google.rpc.Status in grpc-status-details-bin on the wire. Thread-safety:
// thread-safe (pure functions).  Errors: none; details that cannot be parsed are dropped. Source: ours; the detail
// messages are Google's error model (AIP-193).
#ifndef DUNLIN_PROTO_STATUS_MAP_H_
#define DUNLIN_PROTO_STATUS_MAP_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}

namespace dunlin {

struct FieldViolation {
  std::string field;  // proto path, "sampling.temperature"
  std::string description;
};

// INVALID_ARGUMENT whose message is the first violation; at most limits::kMaxReportedViolations are attached.
absl::Status BadRequestError(const std::vector<FieldViolation>& violations);

// Attach one detail to *status, which must not be OK; a second one of the same type replaces the first.
void AttachErrorInfo(absl::string_view reason, const std::map<std::string, std::string>& metadata,
                     absl::Status* status);
void AttachRetryInfo(absl::Duration delay, absl::Status* status);
void AttachQuotaFailure(absl::string_view subject, absl::string_view description, absl::Status* status);

// What was attached, for tests and clients.
struct ErrorInfoDetail {
  std::string reason;
  std::string domain;  // always "dunlin" for ours
  std::map<std::string, std::string> metadata;
};
std::optional<ErrorInfoDetail> GetErrorInfo(const absl::Status& status);
std::optional<absl::Duration> GetRetryDelay(const absl::Status& status);
std::vector<FieldViolation> GetQuotaViolations(const absl::Status& status);  // field = subject
std::vector<FieldViolation> GetFieldViolations(const absl::Status& status);

// Long messages are cut to limits::kMaxStatusMessageBytes at a code point border.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// gRPC's name of a code ("OK", "INVALID_ARGUMENT", ...): the `code` label of metrics.
absl::string_view CodeName(absl::StatusCode code);
// Every name, to pre-create the label's series.
const std::vector<absl::string_view>& AllCodeNames();

}  // namespace dunlin

#endif  // DUNLIN_PROTO_STATUS_MAP_H_
