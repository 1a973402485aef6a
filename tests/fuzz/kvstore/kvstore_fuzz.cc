// Any bytes as the sizes of a tiny KV store and operations on it, each compared with the naive model
// (tests/kvstore_model). The first byte chooses whether every key of the prefix index collides.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "tests/kvstore_model/kv_world.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  dunlin::testing::KvWorldOptions options;
  if (data[0] % 4 == 0) options.hash_mask = 0;
  dunlin::testing::KvWorld world({data + 1, size - 1}, options);
  const std::string error = world.Run();
  CHECK(error.empty()) << error;
  return 0;
}
