#include "kernels/cuda/emulator/warp_matrices.h"

#include <cstring>
#include <memory>

#include "kernels/quant_format.h"

namespace dunlin::kernels::cuda::emulator {
namespace {

constexpr int kLanes = 32;

const float* HalfTable() {
  static const float* table = [] {
    auto* values = new float[65536];
    for (int i = 0; i < 65536; ++i) values[i] = HalfToFloat(static_cast<uint16_t>(i));
    return values;
  }();
  return table;
}

uint32_t Part(uint32_t word, int bits, int i) { return word >> (bits * i) & ((1u << bits) - 1); }

// Where lane l's register r of a fragment lies: first row and column; consecutive values follow along k.
struct At {
  int row, col;
};
At OfA(int lane, int r, int per_word) { return {lane / 4 + 8 * (r % 2), lane % 4 * per_word + 4 * per_word * (r / 2)}; }
At OfB(int lane, int r, int per_word) { return {lane % 4 * per_word + 4 * per_word * r, lane / 4}; }

template <int kDepth, int kBits, typename T, typename Sum, typename Value>
void Mma(void* const* slots, const Value& value) {
  constexpr int kPerWord = 32 / kBits;
  Sum a[16][kDepth], b[8][kDepth];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* slot = static_cast<const MmaSlot<T>*>(slots[lane]);
    for (int r = 0; r < 4; ++r) {
      const At at = OfA(lane, r, kPerWord);
      for (int i = 0; i < kPerWord; ++i) a[at.row][at.col + i] = value(Part(slot->a[r], kBits, i));
    }
    for (int r = 0; r < 2; ++r) {
      const At at = OfB(lane, r, kPerWord);
      for (int i = 0; i < kPerWord; ++i) b[at.col][at.row + i] = value(Part(slot->b[r], kBits, i));
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    T* d = static_cast<const MmaSlot<T>*>(slots[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const Sum* x = a[lane / 4 + 8 * (i / 2)];
      const Sum* y = b[lane % 4 * 2 + i % 2];
      Sum sum = static_cast<Sum>(d[i]);
      for (int k = 0; k < kDepth; ++k) sum += x[k] * y[k];
      d[i] = static_cast<T>(sum);
    }
  }
}

// Lane l keeps (row l / 4, columns 2 (l % 4) and the next) of an 8x8.
template <typename Get>
uint32_t Transposed(int lane, const Get& get) {
  const int row = lane / 4, col = lane % 4 * 2;
  return get(col, row) | static_cast<uint32_t>(get(col + 1, row)) << 16;
}

template <bool kTransposed>
void Load(void* const* slots) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto get = [&](int row, int col) {
      uint16_t v;
      std::memcpy(
          &v, static_cast<const uint8_t*>(static_cast<const LdMatrixSlot*>(slots[8 * matrix + row])->row) + 2 * col, 2);
      return v;
    };
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, col = lane % 4 * 2;
      static_cast<LdMatrixSlot*>(slots[lane])->r[matrix] =
          kTransposed ? Transposed(lane, get) : get(row, col) | static_cast<uint32_t>(get(row, col + 1)) << 16;
    }
  }
}

}  // namespace

float HalfValue(uint16_t bits) { return HalfTable()[bits]; }
uint16_t HalfBits(float value) { return FloatToHalf(value); }

void MmaF16(void* const* slots) {
  const float* table = HalfTable();
  Mma<16, 16, float, double>(slots, [table](uint32_t bits) { return static_cast<double>(table[bits]); });
}

void MmaS8(void* const* slots) {
  Mma<32, 8, int32_t, int32_t>(slots, [](uint32_t bits) { return static_cast<int32_t>(static_cast<int8_t>(bits)); });
}

void TransposeMatrix(void* const* slots) {
  uint16_t m[8][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t word = *static_cast<uint32_t*>(slots[lane]);
    m[lane / 4][lane % 4 * 2] = static_cast<uint16_t>(word);
    m[lane / 4][lane % 4 * 2 + 1] = static_cast<uint16_t>(word >> 16);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    *static_cast<uint32_t*>(slots[lane]) = Transposed(lane, [&](int row, int col) { return m[row][col]; });
  }
}

void LoadMatrices(void* const* slots) { Load<false>(slots); }
void LoadMatricesTransposed(void* const* slots) { Load<true>(slots); }

}  // namespace dunlin::kernels::cuda::emulator
