#include "tests/support/gguf_mutation.h"

#include <algorithm>
#include <iterator>

namespace dunlin::testing {
namespace {

using Bytes = std::vector<uint8_t>;

size_t Below(std::mt19937_64& rng, size_t limit) { return static_cast<size_t>(rng() % limit); }

// Offsets that matter lie in the header, so most edits go there.
size_t Place(std::mt19937_64& rng, const Bytes& file, size_t header) {
  return Below(rng, rng() % 8 == 0 ? file.size() : std::min(header, file.size()));
}

void FlipBits(std::mt19937_64& rng, size_t header, Bytes* file) {
  for (size_t n = 1 + Below(rng, 8); n > 0; --n)
    (*file)[Place(rng, *file, header)] ^= static_cast<uint8_t>(1u << Below(rng, 8));
}

void WriteExtremeNumber(std::mt19937_64& rng, size_t header, Bytes* file) {
  constexpr uint64_t kExtremes[] = {0,
                                    1,
                                    2,
                                    31,
                                    0x7F,
                                    0xFF,
                                    0x7FFFFFFF,
                                    0x80000000,
                                    0xFFFFFFFF,
                                    uint64_t{1} << 30,
                                    (uint64_t{1} << 30) + 1,
                                    uint64_t{1} << 32,
                                    uint64_t{1} << 62,
                                    uint64_t{1} << 63,
                                    ~uint64_t{0},
                                    ~uint64_t{0} - 31};
  const uint64_t value = kExtremes[Below(rng, std::size(kExtremes))];
  const size_t width = size_t{1} << Below(rng, 4);
  const size_t at = Place(rng, *file, header);
  for (size_t i = 0; i < width && at + i < file->size(); ++i) (*file)[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

void Truncate(std::mt19937_64& rng, size_t header, Bytes* file) { file->resize(Place(rng, *file, header)); }

// Copies a stretch of the file to another place, over what is there or in between.
void Splice(std::mt19937_64& rng, size_t header, Bytes* file) {
  const size_t from = Place(rng, *file, header);
  const size_t length = std::min(file->size() - from, 1 + Below(rng, 200));
  const Bytes piece(file->begin() + static_cast<ptrdiff_t>(from),
                    file->begin() + static_cast<ptrdiff_t>(from + length));
  const size_t to = Place(rng, *file, header);
  if (rng() % 2 == 0) {
    file->insert(file->begin() + static_cast<ptrdiff_t>(to), piece.begin(), piece.end());
  } else {
    std::copy_n(piece.begin(), std::min(length, file->size() - to), file->begin() + static_cast<ptrdiff_t>(to));
  }
}

void Cut(std::mt19937_64& rng, size_t header, Bytes* file) {
  const size_t from = Place(rng, *file, header);
  const size_t length = std::min(file->size() - from, 1 + Below(rng, 64));
  file->erase(file->begin() + static_cast<ptrdiff_t>(from), file->begin() + static_cast<ptrdiff_t>(from + length));
}

}  // namespace

Bytes Mutated(std::mt19937_64& rng, const Bytes& seed, size_t header) {
  constexpr void (*kEdits[])(std::mt19937_64&, size_t, Bytes*) = {
      FlipBits, FlipBits, WriteExtremeNumber, WriteExtremeNumber, Truncate, Splice, Cut};
  Bytes file = seed;
  for (size_t n = 1 + Below(rng, 3); n > 0 && !file.empty(); --n)
    kEdits[Below(rng, std::size(kEdits))](rng, header, &file);
  return file;
}

}  // namespace dunlin::testing
