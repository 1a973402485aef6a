// Group-quantised weights against an independent packer that follows AutoGPTQ's published loops word for word.
#include "kernels/group_format.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels {
namespace {

// One 32-value column (of inputs or of outputs) into `bits` words, as AutoGPTQ's pack() places them: 2, 4 and 8 bits in
// whole fractions of a word, 3 bits as ten values, one split two to one, ten values, one split one to two, ten values.
void PackWords(const int* values, int bits, uint32_t* words) {
  for (int w = 0; w < bits; ++w) words[w] = 0;
  if (bits != 3) {
    const int per_word = 32 / bits;
    for (int i = 0; i < 32; ++i) words[i / per_word] |= static_cast<uint32_t>(values[i]) << (bits * (i % per_word));
    return;
  }
  for (int j = 0; j < 10; ++j) words[0] |= static_cast<uint32_t>(values[j]) << (3 * j);
  words[0] |= (static_cast<uint32_t>(values[10]) << 30);
  words[1] |= (static_cast<uint32_t>(values[10]) >> 2) & 1u;
  for (int j = 0; j < 10; ++j) words[1] |= static_cast<uint32_t>(values[11 + j]) << (3 * j + 1);
  words[1] |= (static_cast<uint32_t>(values[21]) << 31);
  words[2] |= (static_cast<uint32_t>(values[21]) >> 1) & 3u;
  for (int j = 0; j < 10; ++j) words[2] |= static_cast<uint32_t>(values[22 + j]) << (3 * j + 2);
}

// A random matrix, by plain values and as a checkpoint holds it.
struct Sample {
  int rows, cols, bits, group_size;
  std::vector<int> codes;         // [rows, cols]
  std::vector<int> zeros;         // [groups, rows]
  std::vector<uint16_t> scales;   // [groups, rows]
  std::vector<uint8_t> bytes[3];  // qweight, qzeros, scales, each after one byte: nothing may rely on alignment
  GroupMatrix matrix;

  float value(int row, int col) const {
    const int group = group_size < 0 ? 0 : col / group_size;
    const auto at = static_cast<size_t>(group * rows + row);
    return HalfToFloat(scales[at]) * static_cast<float>(codes[static_cast<size_t>(row * cols + col)] - zeros[at]);
  }
};

void AppendWords(const std::vector<uint32_t>& words, std::vector<uint8_t>* out) {
  out->resize(1 + 4 * words.size());
  std::memcpy(out->data() + 1, words.data(), 4 * words.size());
}

Sample MakeSample(int rows, int cols, int bits, int group_size, bool v1, bool middle_zeros, uint64_t seed) {
  Sample s{rows, cols, bits, group_size, {}, {}, {}, {}, {}};
  std::mt19937_64 rng(seed);
  const int levels = 1 << bits, groups = group_size < 0 ? 1 : (cols + group_size - 1) / group_size;
  for (int i = 0; i < rows * cols; ++i) s.codes.push_back(static_cast<int>(rng() % static_cast<uint64_t>(levels)));
  for (int i = 0; i < rows * groups; ++i) {
    s.zeros.push_back(middle_zeros ? levels / 2 : static_cast<int>(rng() % static_cast<uint64_t>(levels)));
    s.scales.push_back(FloatToHalf((static_cast<float>(rng() % 2000) - 1000.0f) * 1e-4f));
  }
  std::vector<uint32_t> qweight(static_cast<size_t>(cols / 32 * bits * rows));
  for (int row = 0; row < rows; ++row) {
    for (int b = 0; b < cols / 32; ++b) {
      uint32_t words[8];
      PackWords(&s.codes[static_cast<size_t>(row * cols + 32 * b)], bits, words);
      for (int w = 0; w < bits; ++w) qweight[static_cast<size_t>((b * bits + w) * rows + row)] = words[w];
    }
  }
  std::vector<uint32_t> qzeros;
  for (int group = 0; group < groups; ++group) {
    for (int first = 0; first < rows; first += 32) {
      int stored[32];
      for (int i = 0; i < 32; ++i) {
        stored[i] = (s.zeros[static_cast<size_t>(group * rows + first + i)] - (v1 ? 1 : 0)) & (levels - 1);
      }
      uint32_t words[8];
      PackWords(stored, bits, words);
      qzeros.insert(qzeros.end(), words, words + bits);
    }
  }
  AppendWords(qweight, &s.bytes[0]);
  AppendWords(qzeros, &s.bytes[1]);
  s.bytes[2].resize(1 + 2 * s.scales.size());
  std::memcpy(s.bytes[2].data() + 1, s.scales.data(), 2 * s.scales.size());
  const auto view = [&](int i) { return std::span<const uint8_t>(s.bytes[i]).subspan(1); };
  s.matrix = {rows, cols, bits, group_size, v1, view(0), view(1), view(2)};
  return s;
}

void ExpectBlocksHold(const Sample& s, DType type) {
  const size_t row_bytes = RowBytes(type, s.cols);
  std::vector<uint8_t> blocks(row_bytes * static_cast<size_t>(s.rows), 0xCD);
  GroupToBlocks(s.matrix, type, blocks);
  std::vector<float> row(static_cast<size_t>(s.cols));
  for (int r = 0; r < s.rows; ++r) {
    DequantizeRow(type, std::span<const uint8_t>(blocks).subspan(static_cast<size_t>(r) * row_bytes, row_bytes), row);
    for (int c = 0; c < s.cols; ++c) {
      ASSERT_EQ(std::bit_cast<uint32_t>(row[static_cast<size_t>(c)]), std::bit_cast<uint32_t>(s.value(r, c)))
          << GetDTypeInfo(type).name << " row " << r << " column " << c;
    }
  }
}

constexpr int kBits[] = {2, 3, 4, 8};
constexpr DType kTypes[] = {DType::kInt2, DType::kInt3, DType::kInt4, DType::kInt8};

TEST(GroupFormat, ReadsEveryCodeZeroAndScaleThatAutoGptqPacks) {
  for (const int bits : kBits) {
    for (const bool v1 : {true, false}) {
      for (const int group_size : {32, 64, 128, -1}) {
        SCOPED_TRACE(std::to_string(bits) + " bits, group " + std::to_string(group_size) + (v1 ? ", v1" : ", v2"));
        const Sample s = MakeSample(64, 192, bits, group_size, v1, false, 7);  // 192 / 128: the last group is shorter
        for (int r = 0; r < s.rows; ++r) {
          for (int c = 0; c < s.cols; ++c) {
            ASSERT_EQ(s.matrix.code(r, c), s.codes[static_cast<size_t>(r * s.cols + c)]) << r << ", " << c;
          }
          for (int g = 0; g < s.matrix.num_groups(); ++g) {
            ASSERT_EQ(s.matrix.zero(r, g), s.zeros[static_cast<size_t>(g * s.rows + r)]) << r << ", " << g;
            ASSERT_EQ(s.matrix.scale_bits(r, g), s.scales[static_cast<size_t>(g * s.rows + r)]) << r << ", " << g;
          }
        }
      }
    }
  }
}

TEST(GroupFormat, BlocksHoldEveryValueExactly) {
  for (size_t i = 0; i < std::size(kBits); ++i) {
    for (const int group_size : {32, 128, -1}) {
      for (const bool v1 : {true, false}) {
        const Sample s = MakeSample(96, 160, kBits[i], group_size, v1, false, 11 + i);
        EXPECT_EQ(GroupBlockType(s.matrix), kTypes[i]);
        ExpectBlocksHold(s, kTypes[i]);
      }
    }
  }
}

TEST(GroupFormat, ZerosInTheMiddleMakeTheSmallerGgufBlocks) {
  for (size_t i = 0; i < std::size(kBits); ++i) {
    Sample s = MakeSample(32, 128, kBits[i], 64, true, true, 23 + i);
    const DType want = kBits[i] == 4 ? DType::kQ4_0 : kBits[i] == 8 ? DType::kQ8_0 : kTypes[i];
    EXPECT_EQ(GroupBlockType(s.matrix), want);
    ExpectBlocksHold(s, want);
    ExpectBlocksHold(s, kTypes[i]);
    s.bytes[1].back() ^= 0x80;  // one zero of the last group is another
    EXPECT_EQ(GroupBlockType(s.matrix), kTypes[i]);
  }
}

TEST(GroupFormat, BitsPerWeightStaySmall) {
  EXPECT_EQ(RowBytes(DType::kInt2, 256) * 8, 256u * 2 + 8 * 24);
  EXPECT_EQ(RowBytes(DType::kInt3, 256) * 8, 256u * 3 + 8 * 24);
}

TEST(GroupFormat, ShapesThatContradictAreABug) {
  Sample s = MakeSample(32, 64, 4, 32, true, false, 3);
  GroupMatrix m = s.matrix;
  m.group_size = 48;
  EXPECT_DEATH(GroupBlockType(m), "group size 48");
  m = s.matrix;
  m.bits = 5;
  EXPECT_DEATH(GroupBlockType(m), "5 bits");
  m = s.matrix;
  m.qweight = m.qweight.first(m.qweight.size() - 4);
  EXPECT_DEATH(GroupBlockType(m), "qweight");
  std::vector<uint8_t> out(8);
  EXPECT_DEATH(GroupToBlocks(s.matrix, DType::kQ8_0, out), "4 bits as Q8_0");
}

}  // namespace
}  // namespace dunlin::kernels
