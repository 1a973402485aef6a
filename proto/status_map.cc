#include "proto/status_map.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/protobuf/any.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"
#include "proto/limits.h"

namespace dunlin {
namespace {

constexpr absl::string_view kUrlPrefix = "type.googleapis.com/";
constexpr absl::string_view kDomain = "dunlin";

struct CodeRow {
  absl::StatusCode absl_code;
  grpc::StatusCode grpc_code;
  absl::string_view name;
};

// The one table of codes.
constexpr std::array<CodeRow, 17> kCodes = {{
    {absl::StatusCode::kOk, grpc::StatusCode::OK, "OK"},
    {absl::StatusCode::kCancelled, grpc::StatusCode::CANCELLED, "CANCELLED"},
    {absl::StatusCode::kUnknown, grpc::StatusCode::UNKNOWN, "UNKNOWN"},
    {absl::StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT"},
    {absl::StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
    {absl::StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND, "NOT_FOUND"},
    {absl::StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS, "ALREADY_EXISTS"},
    {absl::StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED, "PERMISSION_DENIED"},
    {absl::StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
    {absl::StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION, "FAILED_PRECONDITION"},
    {absl::StatusCode::kAborted, grpc::StatusCode::ABORTED, "ABORTED"},
    {absl::StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE, "OUT_OF_RANGE"},
    {absl::StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED, "UNIMPLEMENTED"},
    {absl::StatusCode::kInternal, grpc::StatusCode::INTERNAL, "INTERNAL"},
    {absl::StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE"},
    {absl::StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS, "DATA_LOSS"},
    {absl::StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED, "UNAUTHENTICATED"},
}};

const CodeRow& RowOf(absl::StatusCode code) {
  for (const CodeRow& row : kCodes) {
    if (row.absl_code == code) return row;
  }
  return RowOf(absl::StatusCode::kUnknown);
}

template <typename Message>
std::string UrlOf() {
  return absl::StrCat(kUrlPrefix, Message::descriptor()->full_name());
}

template <typename Message>
void Attach(const Message& message, absl::Status* status) {
  CHECK(!status->ok()) << "details belong to errors";
  status->SetPayload(UrlOf<Message>(), absl::Cord(message.SerializeAsString()));
}

template <typename Message>
std::optional<Message> Detail(const absl::Status& status) {
  const auto payload = status.GetPayload(UrlOf<Message>());
  if (!payload.has_value()) return std::nullopt;
  Message message;
  if (!message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

// The longest prefix of at most `max_bytes` that does not end inside a code point.
std::string CutAtCodePoint(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0u) == 0x80u) --end;
  return std::string(text.substr(0, end));
}

}  // namespace

absl::Status BadRequestError(const std::vector<FieldViolation>& violations) {
  CHECK(!violations.empty());
  google::rpc::BadRequest detail;
  const size_t reported = std::min(violations.size(), static_cast<size_t>(limits::kMaxReportedViolations));
  for (size_t i = 0; i < reported; ++i) {
    google::rpc::BadRequest::FieldViolation* violation = detail.add_field_violations();
    violation->set_field(violations[i].field);
    violation->set_description(violations[i].description);
  }
  std::string message = absl::StrCat(violations[0].field, ": ", violations[0].description);
  if (violations.size() > 1) absl::StrAppend(&message, " (and ", violations.size() - 1, " more)");
  absl::Status status = absl::InvalidArgumentError(message);
  Attach(detail, &status);
  return status;
}

void AttachErrorInfo(absl::string_view reason, const std::map<std::string, std::string>& metadata,
                     absl::Status* status) {
  google::rpc::ErrorInfo detail;
  detail.set_reason(std::string(reason));
  detail.set_domain(std::string(kDomain));
  for (const auto& [key, value] : metadata) (*detail.mutable_metadata())[key] = value;
  Attach(detail, status);
}

void AttachRetryInfo(absl::Duration delay, absl::Status* status) {
  google::rpc::RetryInfo detail;
  const absl::Duration bounded = std::clamp(delay, absl::ZeroDuration(), absl::Hours(1));
  absl::Duration rest;
  detail.mutable_retry_delay()->set_seconds(absl::IDivDuration(bounded, absl::Seconds(1), &rest));
  detail.mutable_retry_delay()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  Attach(detail, status);
}

void AttachQuotaFailure(absl::string_view subject, absl::string_view description, absl::Status* status) {
  google::rpc::QuotaFailure detail;
  google::rpc::QuotaFailure::Violation* violation = detail.add_violations();
  violation->set_subject(std::string(subject));
  violation->set_description(std::string(description));
  Attach(detail, status);
}

std::optional<ErrorInfoDetail> GetErrorInfo(const absl::Status& status) {
  const auto detail = Detail<google::rpc::ErrorInfo>(status);
  if (!detail.has_value()) return std::nullopt;
  ErrorInfoDetail info{.reason = detail->reason(), .domain = detail->domain(), .metadata = {}};
  for (const auto& [key, value] : detail->metadata()) info.metadata[key] = value;
  return info;
}

std::optional<absl::Duration> GetRetryDelay(const absl::Status& status) {
  const auto detail = Detail<google::rpc::RetryInfo>(status);
  if (!detail.has_value()) return std::nullopt;
  return absl::Seconds(detail->retry_delay().seconds()) + absl::Nanoseconds(detail->retry_delay().nanos());
}

std::vector<FieldViolation> GetQuotaViolations(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  if (const auto detail = Detail<google::rpc::QuotaFailure>(status); detail.has_value()) {
    for (const auto& v : detail->violations()) violations.push_back({v.subject(), v.description()});
  }
  return violations;
}

std::vector<FieldViolation> GetFieldViolations(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  if (const auto detail = Detail<google::rpc::BadRequest>(status); detail.has_value()) {
    for (const auto& v : detail->field_violations()) violations.push_back({v.field(), v.description()});
  }
  return violations;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const CodeRow& row = RowOf(status.code());
  const std::string message = CutAtCodePoint(status.message(), limits::kMaxStatusMessageBytes);
  google::rpc::Status wire;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    google::protobuf::Any* any = wire.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  if (wire.details().empty()) return grpc::Status(row.grpc_code, message);
  wire.set_code(static_cast<int32_t>(row.grpc_code));
  wire.set_message(message);
  return grpc::Status(row.grpc_code, message, wire.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::StatusCode code = absl::StatusCode::kUnknown;
  for (const CodeRow& row : kCodes) {
    if (row.grpc_code == status.error_code()) code = row.absl_code;
  }
  absl::Status result(code, status.error_message());
  google::rpc::Status wire;
  if (!status.error_details().empty() && wire.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : wire.details()) {
      result.SetPayload(any.type_url(), absl::Cord(any.value()));
    }
  }
  return result;
}

absl::string_view CodeName(absl::StatusCode code) { return RowOf(code).name; }

const std::vector<absl::string_view>& AllCodeNames() {
  static const auto* const names = [] {
    auto* all = new std::vector<absl::string_view>();
    for (const CodeRow& row : kCodes) all->push_back(row.name);
    return all;
  }();
  return *names;
}

}  // namespace dunlin
