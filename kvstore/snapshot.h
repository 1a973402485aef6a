// Bookkeeping as bytes, to compare two moments of it. Pure functions.
#ifndef DUNLIN_KVSTORE_SNAPSHOT_H_
#define DUNLIN_KVSTORE_SNAPSHOT_H_

#include <cstdint>
#include <string>

namespace dunlin::kv {

template <typename T>
void AppendValue(T value, std::string* out) {
  const auto v = static_cast<uint64_t>(value);
  for (int shift = 0; shift < 64; shift += 8) out->push_back(static_cast<char>(v >> shift & 0xFF));
}

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_SNAPSHOT_H_
