// Any bytes as a kept calibration: parse them and make the tables. The last eight bytes are made the right checksum, so
// that the rest is reached.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "kernels/kv_rounding.h"
#include "worker/kv_rounding/calibration.h"
#include "worker/kv_rounding/rounding_tables.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dunlin::worker;  // NOLINT: a fuzz target is one function
  using dunlin::kernels::KvFormat;
  constexpr KvShape kShape{1, 2, 4};
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.size() >= sizeof(uint64_t)) {
    bytes.resize(bytes.size() - sizeof(uint64_t));
    const uint64_t sum = HashBytes(bytes);
    bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  }
  const absl::StatusOr<KvCalibration> calibration = ParseKvCalibration(bytes, kShape, 7);
  if (!calibration.ok()) {
    CHECK(!calibration.status().message().empty());
    return 0;
  }
  CHECK(SerializeKvCalibration(*calibration, 7) == bytes);
  const auto tables =
      KvRoundingTables::Create(*calibration, KvFormat::kE4M3, KvFormat::kInt8, KvRoundingMode::kCompensated);
  if (!tables.ok()) return 0;
  const float x[4] = {1.0f, -0.5f, 300.0f, 0.0f};
  for (const dunlin::kernels::KvRounding& layer : tables->Layers()) {
    uint8_t codes[4], scale[4];
    dunlin::kernels::QuantizeHead(KvFormat::kE4M3, x, layer.k, codes, 1, scale);
    for (const uint8_t code : codes) CHECK((code & 0x7F) != 0x7F);
    dunlin::kernels::QuantizeHead(KvFormat::kInt8, x, layer.v, codes, 1, scale);
    for (const uint8_t code : codes) CHECK(code != 0x80);
  }
  return 0;
}
