// The words of --kv-cache-dtype. Thread-safety: pure functions.
// Errors: kInvalidArgument naming the word and the allowed ones.
#ifndef DUNLIN_WORKER_KV_FORMATS_H_
#define DUNLIN_WORKER_KV_FORMATS_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/paged_kv.h"

namespace dunlin::worker {

struct KvFormats {
  kernels::KvFormat k;
  kernels::KvFormat v;
  const char* name;  // canonical: "fp8" for auto, fp8 and fp8_e4m3
};

// auto, fp8, fp8_e4m3: E4M3 for both; int8; int8_fp8: K in INT8, V in E4M3; bf16; f16.
absl::StatusOr<KvFormats> ParseKvFormats(absl::string_view word);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_FORMATS_H_
