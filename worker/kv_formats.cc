#include "worker/kv_formats.h"

#include "absl/strings/str_cat.h"

namespace dunlin::worker {

absl::StatusOr<KvFormats> ParseKvFormats(absl::string_view word) {
  using kernels::KvFormat;
  static constexpr struct {
    const char* word;
    KvFormats formats;
  } kTable[] = {
      {"auto", {KvFormat::kE4M3, KvFormat::kE4M3, "fp8"}},
      {"fp8", {KvFormat::kE4M3, KvFormat::kE4M3, "fp8"}},
      {"fp8_e4m3", {KvFormat::kE4M3, KvFormat::kE4M3, "fp8"}},
      {"int8", {KvFormat::kInt8, KvFormat::kInt8, "int8"}},
      {"int8_fp8", {KvFormat::kInt8, KvFormat::kE4M3, "int8_fp8"}},
      {"bf16", {KvFormat::kBF16, KvFormat::kBF16, "bf16"}},
      {"f16", {KvFormat::kF16, KvFormat::kF16, "f16"}},
  };
  for (const auto& row : kTable) {
    if (word == row.word) return row.formats;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--kv-cache-dtype ", word, ": allowed are auto, fp8, fp8_e4m3, int8, int8_fp8, bf16 and f16"));
}

absl::StatusOr<KvRoundingMode> ParseKvRounding(absl::string_view word) {
  if (word == "nearest") return KvRoundingMode::kNearest;
  if (word == "compensated") return KvRoundingMode::kCompensated;
  return absl::InvalidArgumentError(absl::StrCat("--kv-rounding ", word, ": allowed are nearest and compensated"));
}

}  // namespace dunlin::worker
