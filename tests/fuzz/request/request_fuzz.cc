// Any bytes that parse as a GenerateRequest are either accepted or refused with a reason that fits into gRPC's
// trailers; validation is a pure function. Source: ours.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/check.h"
#include "dunlin/v1/inference.pb.h"
#include "grpcpp/support/status.h"
#include "proto/limits.h"
#include "proto/status_map.h"
#include "proto/validate.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int kVocab = 49152;
  dunlin::v1::GenerateRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  const absl::Status status = dunlin::ValidateGenerateRequest(request, kVocab);
  CHECK(status == dunlin::ValidateGenerateRequest(request, kVocab));
  if (status.ok()) {
    // What passed is safe to compute with.
    const dunlin::v1::Sampling& s = request.sampling();
    CHECK(std::isfinite(s.temperature()) && s.temperature() >= 0 && s.temperature() <= 10);
    CHECK(s.n() <= dunlin::limits::kMaxChoices);
    CHECK_LE(request.stopping().stop_size(), dunlin::limits::kMaxStopStrings);
    for (const auto& [id, bias] : s.logit_bias()) CHECK(id < kVocab && std::isfinite(bias));
    for (const uint32_t id : request.token_ids().ids()) CHECK_LT(id, static_cast<uint32_t>(kVocab));
    CHECK(request.input_case() != dunlin::v1::GenerateRequest::INPUT_NOT_SET);
    return 0;
  }
  CHECK(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status.ToString();
  const grpc::Status wire = dunlin::ToGrpcStatus(status);
  CHECK_LT(wire.error_details().size(), size_t{8192});
  CHECK(dunlin::FromGrpcStatus(wire).code() == status.code());
  return 0;
}
