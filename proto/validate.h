// Checks a GenerateRequest against the public limits (proto/limits.h) before any work is spent on it.
// Thread-safety: thread-safe (pure).  Cost: linear in the request's ids and strings; counts are checked first.
// Errors: kInvalidArgument with google.rpc.BadRequest naming every field's proto path (the first few), kUnimplemented
// with google.rpc.ErrorInfo naming a feature that is not built.
#ifndef DUNLIN_PROTO_VALIDATE_H_
#define DUNLIN_PROTO_VALIDATE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "dunlin/v1/inference.pb.h"

namespace dunlin {

// vocab_size: of the model served; ids must be below it.
absl::Status ValidateGenerateRequest(const v1::GenerateRequest& request, int vocab_size);

// kUnimplemented naming the feature.
absl::Status NotBuiltError(absl::string_view feature);

}  // namespace dunlin

#endif  // DUNLIN_PROTO_VALIDATE_H_
