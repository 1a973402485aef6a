// The words of --kv-cache-dtype and --kv-rounding. Thread-safety: pure functions.
// Errors: kInvalidArgument naming the word and the allowed ones.
#ifndef DUNLIN_WORKER_KV_FORMATS_H_
#define DUNLIN_WORKER_KV_FORMATS_H_

#include <cstdint>

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

// How 8-bit pages are rounded (kernels/kv_rounding.h). kCentred has no word: it shows what each half of kCompensated
// does (tests/bench).
enum class KvRoundingMode : uint8_t {
  kNearest,      // every value to nearest; needs no calibration
  kCentred,      // the keys' mean taken off
  kCompensated,  // and each value's error handed on
};

// nearest, compensated.
absl::StatusOr<KvRoundingMode> ParseKvRounding(absl::string_view word);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_FORMATS_H_
