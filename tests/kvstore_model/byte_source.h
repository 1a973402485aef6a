// Decisions read from a byte string, so that a fuzzer and a seeded generator drive the same interpreter. When the bytes
// are used up every decision is 0. Thread-safety: none.  Borrows the bytes. Cost: O(1). Source: ours.
#ifndef DUNLIN_TESTS_KVSTORE_MODEL_BYTE_SOURCE_H_
#define DUNLIN_TESTS_KVSTORE_MODEL_BYTE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace dunlin::testing {

class ByteSource {
 public:
  explicit ByteSource(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  bool done() const { return at_ >= bytes_.size(); }
  int Byte() { return done() ? 0 : bytes_[at_++]; }
  // In [low, high]; low when high is smaller.
  int Pick(int low, int high) { return high <= low ? low : low + Byte() % (high - low + 1); }
  // True in about `percent` of random bytes; false when the bytes are used up.
  bool Chance(int percent) { return !done() && Byte() * 100 < percent * 256; }

 private:
  const std::span<const uint8_t> bytes_;
  size_t at_ = 0;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_KVSTORE_MODEL_BYTE_SOURCE_H_
