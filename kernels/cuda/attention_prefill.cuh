// The kernel of prefill attention: FlashAttention-2 over paged K and V.
//
// A block takes kRows rows of one sequence's "flat" queries (row * group + head within the group, so that all heads of
// a group share the K and V that they all read) and walks the tokens that any of them sees, kKeys at a time, as groups
// of 16 that never cross a page. Each warp owns 16 * kRowTiles flat rows:
//     S = Q K^T   A = Q, f16 fragments kept in shared memory;  B = K, converted in registers
//     O += P V    A = P, straight from S's fragments;          B = V, converted and transposed in registers
// A tile of K, V and their scales is copied as the page stores it, by cp.async, while the one before is computed.
//
// No ldmatrix (none transposes bytes before sm_100): the contraction index is permuted instead. For S, lane (g, t)
// loads whole 16-byte chunks of key g's row, and Q's fragments hold the same dims (KeyDim). For O, it loads the 16 dims
// at chunk g of the four tokens that P's fragment gives it, and byte permutes make (token, token + 1) pairs of each
// dim: column g of n-tile n is dim ValueDim(g, n).
//
// Scales: K's multiplies the column of S. V's, vs = 2^e * f with f in [1, 2) (E4M3: f = 1), enters as t = s + e before
// the running maximum m, which is therefore the maximum of log2(p * vs): P = exp2(t - m) * f is at most 2 and loses
// nothing to f16's range that matters beside the row's largest p * vs; the softmax's sum takes exp2(t - m) * 2^-e. An
// exponent below kLeastExponent counts as that (vectors of V below 2^-81), so that the sum's terms stay in range while
// the scales of V that a row sees are within 2^100 of each other.
//
// Unwritten slots lie behind the sequence's last token: their K and V are never read (the copy gives zeros), what their
// scales do to S is masked, and scales of V are taken apart by bits, so that even NaN gives finite parts.
//
// Thread-safety: device code.  Errors: none.  Cost: K and V of the rows' tokens once per kRows flat rows and kv head.
// Source: FlashAttention-2 (arXiv 2307.08691); permuted contraction and folded scales ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_CUH_
#define DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_CUH_

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "kernels/attention_mask.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

inline constexpr int kPrefillThreads = 128;

// Sizes of an instance.
template <int kHeadDim, KvFormat kKeyFormat, KvFormat kValueFormat>
struct PrefillTraits {
  static constexpr int kDim = kHeadDim;
  static constexpr KvFormat kK = kKeyFormat;
  static constexpr KvFormat kV = kValueFormat;
  static constexpr int kWarps = kPrefillThreads / dev::kWarp;
  static constexpr int kRowTiles = kDim <= 128 ? 2 : 1;  // of 16 flat rows, per warp: what the registers hold
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kKeys = 32;
  static constexpr int kGroups = kKeys / 16;
  static constexpr int kKeyTiles = kKeys / 8;  // n-tiles of S
  static constexpr int kDimTiles = kDim / 8;   // n-tiles of O
  static constexpr int kSteps = kDim / 16;     // contraction steps of S

  static constexpr int kRowBytes = kDim * static_cast<int>(KvValueBytes(kK));  // of K and of V
  static_assert(KvValueBytes(kK) == KvValueBytes(kV));
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kValuesPerWord = 4 / static_cast<int>(KvValueBytes(kK));
  static constexpr int kStepsPerChunk = kValuesPerWord;         // a lane's chunk of a key feeds as many steps
  static constexpr int kKeyChunks = kSteps / kStepsPerChunk;    // chunks of a key's row that a lane loads
  static constexpr int kValueBytes = kRowBytes / 8;             // bytes of a token's V row that a lane loads
  static constexpr int kValueChunks = (kValueBytes + 15) / 16;  // in so many loads
  static constexpr int kValueWords = kValueBytes < 16 ? kValueBytes / 4 : 4;

  static constexpr int kKScale = static_cast<int>(KvScaleBytes(kK));
  static constexpr int kVScale = static_cast<int>(KvScaleBytes(kV));
  // Shared memory: the fragments of Q, then the stages: K, V, scales of K, scales of V.
  static constexpr int kStages = 2;
  static constexpr int kQBytes = kRows * kDim * 2;
  static constexpr int kSlabBytes = kKeys * kRowBytes;
  static constexpr int kKScaleAt = 2 * kSlabBytes;
  static constexpr int kVScaleAt = kKScaleAt + kKeys * kKScale;
  static constexpr int kStageBytes = (kVScaleAt + kKeys * kVScale + 127) / 128 * 128;
  static constexpr int kSharedBytes = kQBytes + kStages * kStageBytes;
};

// ---- Which value lies where ----

// Chunk i of a key's row that lane t of a quad loads. Eight lanes' loads (two keys) meet all banks once.
template <typename T>
DUNLIN_DEV int KeyChunk(int t, int i) {
  return T::kRowChunks == 4 ? t : 2 * t + (i & 1) + 8 * (i >> 1);
}
// The first of the four adjacent dims that lane t's a0, a2 (and b0, b1) hold in a contraction step.
template <typename T>
DUNLIN_DEV int KeyDim(int t, int step) {
  constexpr int kWidth = 4 * T::kValuesPerWord;  // values of a chunk
  return KeyChunk<T>(t, step / T::kStepsPerChunk) * kWidth + step % T::kStepsPerChunk * 4;
}
// The token, in its tile, of column n of S's n-tile j. In rows of four chunks a quad's four tokens must differ in their
// low two bits (where SlabChunk and the row's half of the banks come from), and so must those of columns 2m and 2m + 1
// in the lowest.
template <typename T>
DUNLIN_DEV int KeyToken(int j, int n) {
  if (T::kRowChunks != 4) return 8 * j + n;
  return 8 * j + ((n >> 1) ^ (n & 1)) + 4 * (n & 1);
}
// The dim of column g of O's n-tile n. Tiles n to n + 3 of a lane are adjacent dims.
template <typename T>
DUNLIN_DEV int ValueDim(int g, int n) {
  constexpr int kWidth = T::kValueWords * T::kValuesPerWord;
  return (g + 8 * (n / kWidth)) * kWidth + n % kWidth;
}

// ---- The work ----

// A block's flat rows [first, end) of a sequence.
struct PrefillRows {
  DeviceSequence sequence;
  int first;
  int end;
  DUNLIN_DEV int Position(int flat, int group) const { return sequence.context_tokens + flat / group; }
};

// False: this block has none. Tiles of a sequence go from its last rows, which see most, to its first.
DUNLIN_DEV bool FindRows(const PrefillParams& p, int tile_rows, PrefillRows* rows) {
  int left = dev::BlockX();
  const int sequences = p.counts->num_sequences;
  for (int i = 0; i < sequences; ++i) {
    const DeviceSequence s = p.sequences[i];
    if (s.num_rows < kPrefillRows) continue;
    const int flat = s.num_rows * p.group;
    const int tiles = (flat + tile_rows - 1) / tile_rows;
    if (left < tiles) {
      const int first = (tiles - 1 - left) * tile_rows;
      *rows = {s, first, first + tile_rows < flat ? first + tile_rows : flat};
      return true;
    }
    left -= tiles;
  }
  return false;
}

// The tokens that a block walks, in groups of 16.
struct TokenGroups {
  static constexpr int kNone = 0x7FFFFF00;  // a token that nobody sees
  SeenRuns runs;
  DUNLIN_DEV int First(int i) const {
    return i < runs.Count() ? 16 * (i < runs.sink_end ? i : runs.low + i - runs.sink_end) : kNone;
  }
};

// ---- Copies ----

template <typename T>
DUNLIN_DEV void FindPages(const PrefillParams& p, const DeviceSequence& s, const TokenGroups& groups, int tile,
                          int (&pages)[T::kGroups]) {
  DUNLIN_UNROLL
  for (int i = 0; i < T::kGroups; ++i) {
    const int token = groups.First(tile * T::kGroups + i);
    pages[i] = token == TokenGroups::kNone ? 0 : p.page_table[s.first_page + token / p.page_tokens];
  }
}

// One tile into its stage; all threads of the block.
template <typename T>
DUNLIN_DEV void CopyTile(const PrefillParams& p, const TokenGroups& groups, int tile, const int (&pages)[T::kGroups],
                         int end, uint8_t* stage) {
  const size_t head = static_cast<size_t>(dev::BlockY()) * static_cast<size_t>(p.page_tokens);
  DUNLIN_UNROLL
  for (int i = 0; i < T::kGroups; ++i) {
    const int token = groups.First(tile * T::kGroups + i);
    const bool any = token != TokenGroups::kNone;
    const size_t slot = head + (any ? static_cast<size_t>(token % p.page_tokens) : 0);
    const uint8_t* page = p.layer + static_cast<size_t>(pages[i]) * p.page_bytes;
    const uint8_t* k = page + slot * T::kRowBytes;
    const uint8_t* v = page + p.v_offset + slot * T::kRowBytes;
    uint8_t* to = stage + i * 16 * T::kRowBytes;
    for (int at = 16 * dev::ThreadX(); at < 16 * T::kRowBytes; at += 16 * kPrefillThreads) {
      const bool valid = any && token + at / T::kRowBytes < end;
      dev::CopyAsync16(to + at, k + at, valid);
      dev::CopyAsync16(to + T::kSlabBytes + at, v + at, valid);
    }
    const int at = 16 * dev::ThreadX();
    if (at < 16 * T::kKScale) {
      dev::CopyAsync16(stage + T::kKScaleAt + i * 16 * T::kKScale + at,
                       page + p.k_scale_offset + slot * T::kKScale + at, any);
    }
    if (at < 16 * T::kVScale) {
      dev::CopyAsync16(stage + T::kVScaleAt + i * 16 * T::kVScale + at,
                       page + p.v_scale_offset + slot * T::kVScale + at, any);
    }
  }
}

// Q of the warp's rows, as f16 fragments: [row tile][step][lane] of 16 bytes. Each lane reads what it wrote.
template <typename T>
DUNLIN_DEV void StoreQueries(const PrefillParams& p, const PrefillRows& rows, int first, uint8_t* fragments) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int tile = 0; tile < T::kRowTiles; ++tile) {
    for (int step = 0; step < T::kSteps; ++step) {
      uint32_t a[4];
      DUNLIN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int flat = first + 16 * tile + 8 * half + g;
        dev::U4 q{0, 0, 0, 0};
        if (flat < rows.end) {
          const size_t row = static_cast<size_t>(rows.sequence.first_row + flat / p.group);
          const int head = dev::BlockY() * p.group + flat % p.group;
          q = dev::LoadGlobal16(p.q + (row * static_cast<size_t>(p.num_q_heads) + static_cast<size_t>(head)) * T::kDim +
                                KeyDim<T>(t, step));
        }
        a[half] = dev::PackHalf2(dev::BitsToFloat(q.x), dev::BitsToFloat(q.y));
        a[2 + half] = dev::PackHalf2(dev::BitsToFloat(q.z), dev::BitsToFloat(q.w));
      }
      auto* to = reinterpret_cast<dev::U4*>(fragments + ((tile * T::kSteps + step) * dev::kWarp + dev::Lane()) * 16);
      *to = {a[0], a[1], a[2], a[3]};
    }
  }
}

// ---- Arithmetic ----

template <KvFormat kFormat>
DUNLIN_DEV void CodesToHalf(uint32_t codes, uint32_t (&half2)[2]) {
  if constexpr (kFormat == KvFormat::kE4M3) {
    dev::E4M3ToHalf(codes, half2);
  } else {
    dev::Int8ToHalf(codes, half2);
  }
}
// What a converted value must be multiplied by, its scale apart.
template <KvFormat kFormat>
DUNLIN_DEV constexpr float Unit() {
  return kFormat == KvFormat::kE4M3 ? dev::kE4M3Unit : 1.0f;
}
DUNLIN_DEV void Unpack(const dev::U4& v, uint32_t (&words)[4]) {
  words[0] = v.x;
  words[1] = v.y;
  words[2] = v.z;
  words[3] = v.w;
}

// What a warp keeps of its rows; [.][0] is row g of the tile, [.][1] row g + 8.
template <typename T>
struct PrefillState {
  float o[T::kRowTiles][T::kDimTiles][4];
  float max[T::kRowTiles][2];
  float sum[T::kRowTiles][2];  // this lane's columns only
  int position[T::kRowTiles][2];
};
template <typename T>
using Scores = float[T::kRowTiles][T::kKeyTiles][4];

// s = Q K^T in the stage's units.
template <typename T>
DUNLIN_DEV void MultiplyKeys(const uint8_t* fragments, const uint8_t* keys, Scores<T>& s) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int i = 0; i < T::kKeyChunks; ++i) {
    uint32_t words[T::kKeyTiles][4];
    DUNLIN_UNROLL
    for (int j = 0; j < T::kKeyTiles; ++j) {
      const int token = KeyToken<T>(j, g);
      const int chunk = SlabChunk(KeyChunk<T>(t, i), token, T::kRowChunks);
      Unpack(dev::LoadShared16(keys + token * T::kRowBytes + chunk * 16), words[j]);
    }
    DUNLIN_UNROLL
    for (int step = 0; step < T::kStepsPerChunk; ++step) {
      uint32_t a[T::kRowTiles][4];
      DUNLIN_UNROLL
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        const int at = tile * T::kSteps + i * T::kStepsPerChunk + step;
        Unpack(dev::LoadShared16(fragments + (at * dev::kWarp + dev::Lane()) * 16), a[tile]);
      }
      DUNLIN_UNROLL
      for (int j = 0; j < T::kKeyTiles; ++j) {
        uint32_t b[2];
        if constexpr (T::kK == KvFormat::kF16) {
          b[0] = words[j][2 * step];
          b[1] = words[j][2 * step + 1];
        } else {
          CodesToHalf<T::kK>(words[j][step], b);
        }
        DUNLIN_UNROLL
        for (int tile = 0; tile < T::kRowTiles; ++tile) dev::MmaF16(s[tile][j], a[tile], b);
      }
    }
  }
}

// The scale of a token's V: 2^(exponent - 127) * fraction.
inline constexpr int kLeastExponent = 37;
struct ValueScale {
  int exponent;
  float fraction;
  DUNLIN_DEV float Log2() const {  // exponent - 127: 2^23 + exponent, less 2^23 + 127
    return dev::BitsToFloat(0x4B000000u | static_cast<uint32_t>(exponent)) - 8388735.0f;
  }
  DUNLIN_DEV float Inverse() const { return dev::BitsToFloat(static_cast<uint32_t>(254 - exponent) << 23); }
};
template <KvFormat kFormat>
DUNLIN_DEV ValueScale LoadValueScale(const uint8_t* scales, int token) {
  ValueScale s{127, 1.0f};
  if constexpr (kFormat == KvFormat::kE4M3) {
    s.exponent = scales[token];
  } else if constexpr (kFormat == KvFormat::kInt8) {
    const uint32_t bits = dev::FloatBits(reinterpret_cast<const float*>(scales)[token]);
    s.exponent = static_cast<int>(bits >> 23) & 0xFF;
    s.fraction = dev::BitsToFloat((bits & 0x7FFFFFu) | 0x3F800000u);
  }
  s.exponent = s.exponent < kLeastExponent ? kLeastExponent : s.exponent > 254 ? 254 : s.exponent;
  return s;
}
template <KvFormat kFormat>
DUNLIN_DEV float LoadKeyScale(const uint8_t* scales, int token) {
  if constexpr (kFormat == KvFormat::kE4M3) return dev::BitsToFloat(static_cast<uint32_t>(scales[token]) << 23);
  if constexpr (kFormat == KvFormat::kInt8) return reinterpret_cast<const float*>(scales)[token];
  return 1.0f;
}

inline constexpr float kLog2E = 1.4426950408889634f;

// cap * tanh(x / cap) of logits in base 2; tanh(y) = 1 - 2 / (1 + exp(2y)), the quotient as a power of two.
DUNLIN_DEV float SoftCap(float x, float cap) {
  const float rest = dev::Exp2(-dev::Log2(1.0f + dev::Exp2(x * (2.0f / cap))));
  return cap * kLog2E * (1.0f - 2.0f * rest);
}

// Logits in base 2, V's exponents added, minus infinity where a row does not see the token.
template <typename T>
DUNLIN_DEV void FinishScores(const PrefillParams& p, const PrefillState<T>& state, const uint8_t* stage,
                             const int (&tokens)[T::kGroups], bool masked, Scores<T>& s) {
  const int t = dev::Lane() % 4;
  const float factor = p.scale * kLog2E * Unit<T::kK>();
  DUNLIN_UNROLL
  for (int j = 0; j < T::kKeyTiles; ++j) {
    DUNLIN_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int token = KeyToken<T>(j, 2 * t + e);
      const float k_scale = LoadKeyScale<T::kK>(stage + T::kKScaleAt, token) * factor;
      const float v_log2 = LoadValueScale<T::kV>(stage + T::kVScaleAt, token).Log2();
      const int at = tokens[j / 2] + token % 16;
      DUNLIN_UNROLL
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        DUNLIN_UNROLL
        for (int half = 0; half < 2; ++half) {
          float x = s[tile][j][2 * half + e] * k_scale;
          if (p.soft_cap > 0.0f) x = SoftCap(x, p.soft_cap);
          x += v_log2;
          if (masked) {
            const int position = state.position[tile][half];
            const bool near = p.pattern.window == 0 || at > position - p.pattern.window || at < p.pattern.sinks;
            if (at > position || !near) x = dev::BitsToFloat(0xFF800000u);
          }
          s[tile][j][2 * half + e] = x;
        }
      }
    }
  }
}

// Running maximum and sum; s becomes P; O follows the maximum.
template <typename T>
DUNLIN_DEV void Softmax(const uint8_t* v_scales, Scores<T>& s, PrefillState<T>& state) {
  const int t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int tile = 0; tile < T::kRowTiles; ++tile) {
    float shrink[2];
    DUNLIN_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = state.max[tile][half];
      DUNLIN_UNROLL
      for (int j = 0; j < T::kKeyTiles; ++j) {
        DUNLIN_UNROLL
        for (int e = 0; e < 2; ++e) {
          const float x = s[tile][j][2 * half + e];
          largest = x > largest ? x : largest;
        }
      }
      DUNLIN_UNROLL
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = dev::ShuffleXor(largest, mask);
        largest = other > largest ? other : largest;
      }
      shrink[half] = dev::Exp2(state.max[tile][half] - largest);
      state.max[tile][half] = largest;
      state.sum[tile][half] *= shrink[half];
    }
    if (dev::Ballot(shrink[0] != 1.0f || shrink[1] != 1.0f) != 0) {
      DUNLIN_UNROLL
      for (int n = 0; n < T::kDimTiles; ++n) {
        DUNLIN_UNROLL
        for (int i = 0; i < 4; ++i) state.o[tile][n][i] *= shrink[i / 2];
      }
    }
  }
  DUNLIN_UNROLL
  for (int j = 0; j < T::kKeyTiles; ++j) {
    DUNLIN_UNROLL
    for (int e = 0; e < 2; ++e) {
      const ValueScale scale = LoadValueScale<T::kV>(v_scales, KeyToken<T>(j, 2 * t + e));
      DUNLIN_UNROLL
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        DUNLIN_UNROLL
        for (int half = 0; half < 2; ++half) {
          float& x = s[tile][j][2 * half + e];
          x = dev::Exp2(x - state.max[tile][half]);
          state.sum[tile][half] = dev::Fma(x, scale.Inverse(), state.sum[tile][half]);
          x *= scale.fraction;
        }
      }
    }
  }
}

// Loads a lane's words of one token's row of V.
template <typename T>
DUNLIN_DEV void LoadValueWords(const uint8_t* values, int token, int g, int i, uint32_t (&words)[4]) {
  const uint8_t* row = values + token * T::kRowBytes;
  if constexpr (T::kValueWords == 4) {
    Unpack(dev::LoadShared16(row + SlabChunk(g + 8 * i, token, T::kRowChunks) * 16), words);
  } else {
    const dev::U2 v = dev::LoadShared8(row + SlabChunk(g / 2, token, T::kRowChunks) * 16 + g % 2 * 8);
    words[0] = v.x;
    words[1] = v.y;
  }
}

// One word of each of two tokens' rows to pairs (token, next token) of the word's dims.
template <typename T>
DUNLIN_DEV void PairTokens(uint32_t even, uint32_t odd, uint32_t (&half2)[T::kValuesPerWord]) {
  if constexpr (T::kV == KvFormat::kF16) {
    half2[0] = dev::BytePermute(even, odd, 0x5410);
    half2[1] = dev::BytePermute(even, odd, 0x7632);
  } else {
    uint32_t low[2], high[2];
    CodesToHalf<T::kV>(dev::BytePermute(even, odd, 0x5140), low);
    CodesToHalf<T::kV>(dev::BytePermute(even, odd, 0x7362), high);
    half2[0] = low[0];
    half2[1] = low[1];
    half2[2] = high[0];
    half2[3] = high[1];
  }
}

// o += P V.
template <typename T>
DUNLIN_DEV void MultiplyValues(const uint8_t* values, const Scores<T>& s, PrefillState<T>& state) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int group = 0; group < T::kGroups; ++group) {
    uint32_t a[T::kRowTiles][4];
    DUNLIN_UNROLL
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
      DUNLIN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const auto& from = s[tile][2 * group + i / 2];
        a[tile][i] = dev::PackHalf2(from[2 * (i % 2)], from[2 * (i % 2) + 1]);
      }
    }
    DUNLIN_UNROLL
    for (int i = 0; i < T::kValueChunks; ++i) {
      uint32_t words[4][4];  // of the tokens of slots 2t, 2t + 1, 2t + 8, 2t + 9
      DUNLIN_UNROLL
      for (int r = 0; r < 4; ++r) {
        LoadValueWords<T>(values, KeyToken<T>(2 * group + r / 2, 2 * t + r % 2), g, i, words[r]);
      }
      DUNLIN_UNROLL
      for (int w = 0; w < T::kValueWords; ++w) {
        uint32_t first[T::kValuesPerWord], second[T::kValuesPerWord];
        PairTokens<T>(words[0][w], words[1][w], first);
        PairTokens<T>(words[2][w], words[3][w], second);
        DUNLIN_UNROLL
        for (int d = 0; d < T::kValuesPerWord; ++d) {
          const uint32_t b[2] = {first[d], second[d]};
          const int n = (i * T::kValueWords + w) * T::kValuesPerWord + d;
          DUNLIN_UNROLL
          for (int tile = 0; tile < T::kRowTiles; ++tile) dev::MmaF16(state.o[tile][n], a[tile], b);
        }
      }
    }
  }
}

// ---- The kernel ----

template <typename T>
DUNLIN_DEV void BeginRows(const PrefillRows& rows, int first, int group, PrefillState<T>& state) {
  DUNLIN_UNROLL
  for (int tile = 0; tile < T::kRowTiles; ++tile) {
    DUNLIN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int flat = first + 16 * tile + 8 * half + dev::Lane() / 4;
      state.position[tile][half] = rows.Position(flat < rows.end ? flat : rows.end - 1, group);
      state.max[tile][half] = -1e30f;  // finite: minus infinity less itself would be NaN
      state.sum[tile][half] = 0.0f;
    }
    DUNLIN_UNROLL
    for (int n = 0; n < T::kDimTiles; ++n) {
      DUNLIN_UNROLL
      for (int i = 0; i < 4; ++i) state.o[tile][n][i] = 0.0f;
    }
  }
}

// out = o / sum.
template <typename T>
DUNLIN_DEV void EndRows(const PrefillParams& p, const PrefillRows& rows, int first, const PrefillState<T>& state) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int tile = 0; tile < T::kRowTiles; ++tile) {
    DUNLIN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int flat = first + 16 * tile + 8 * half + g;
      const int head = dev::BlockY() * p.group + flat % p.group;
      float sum = state.sum[tile][half];
      sum += dev::ShuffleXor(sum, 1);
      sum += dev::ShuffleXor(sum, 2);
      if (flat >= rows.end) continue;
      if (p.sink_logits != nullptr) sum += dev::Exp2(p.sink_logits[head] * kLog2E - state.max[tile][half]);
      const float factor = Unit<T::kV>() / sum;
      const size_t row = static_cast<size_t>(rows.sequence.first_row + flat / p.group);
      float* out = p.out + (row * static_cast<size_t>(p.num_q_heads) + static_cast<size_t>(head)) * T::kDim;
      DUNLIN_UNROLL
      for (int n = 0; n < T::kDimTiles; n += 4) {
        DUNLIN_UNROLL
        for (int e = 0; e < 2; ++e) {
          uint32_t x[4];
          DUNLIN_UNROLL
          for (int i = 0; i < 4; ++i) x[i] = dev::FloatBits(state.o[tile][n + i][2 * half + e] * factor);
          *reinterpret_cast<dev::U4*>(out + ValueDim<T>(2 * t + e, n)) = {x[0], x[1], x[2], x[3]};
        }
      }
    }
  }
}

template <typename T>
DUNLIN_KERNEL(kPrefillThreads, 2)
void PrefillKernel(PrefillParams p) {
  PrefillRows rows;
  if (!FindRows(p, T::kRows, &rows)) return;
  const int first_position = rows.Position(rows.first, p.group), last_position = rows.Position(rows.end - 1, p.group);
  const TokenGroups groups{PagesOf(TokensSeen(p.pattern, first_position, last_position), 16)};
  const int tiles = (groups.runs.Count() + T::kGroups - 1) / T::kGroups;
  uint8_t* stages = dev::Shared() + T::kQBytes;
  int pages[T::kGroups];
  FindPages<T>(p, rows.sequence, groups, 0, pages);
  CopyTile<T>(p, groups, 0, pages, last_position + 1, stages);
  dev::CopyAsyncCommit();
  FindPages<T>(p, rows.sequence, groups, 1, pages);

  const int first = rows.first + dev::Warp() * T::kWarpRows;
  const int last = first + T::kWarpRows < rows.end ? first + T::kWarpRows - 1 : rows.end - 1;
  const int warp_first = rows.Position(first, p.group), warp_last = rows.Position(last, p.group);
  uint8_t* fragments = dev::Shared() + dev::Warp() * (T::kQBytes / T::kWarps);
  StoreQueries<T>(p, rows, first, fragments);
  PrefillState<T> state;
  BeginRows<T>(rows, first, p.group, state);
  for (int tile = 0; tile < tiles; ++tile) {
    dev::CopyAsyncWait<0>();
    dev::SyncThreads();  // the tile is there for all, and all have left the stage that is filled next
    CopyTile<T>(p, groups, tile + 1, pages, last_position + 1, stages + (tile + 1) % T::kStages * T::kStageBytes);
    dev::CopyAsyncCommit();
    FindPages<T>(p, rows.sequence, groups, tile + 2, pages);
    int tokens[T::kGroups];
    DUNLIN_UNROLL
    for (int i = 0; i < T::kGroups; ++i) tokens[i] = groups.First(tile * T::kGroups + i);
    if (first >= rows.end || tokens[0] > warp_last) continue;
    const bool masked =
        tokens[T::kGroups - 1] + 15 > warp_first || (p.pattern.window > 0 && tokens[0] <= warp_last - p.pattern.window);
    const uint8_t* stage = stages + tile % T::kStages * T::kStageBytes;
    Scores<T> s = {};
    MultiplyKeys<T>(fragments, stage, s);
    FinishScores<T>(p, state, stage, tokens, masked, s);
    Softmax<T>(stage + T::kVScaleAt, s, state);
    MultiplyValues<T>(stage + T::kSlabBytes, s, state);
  }
  if (first < rows.end) EndRows<T>(p, rows, first, state);
}

template <int kDim, KvFormat kK, KvFormat kV>
void LaunchPrefillOf(Device* device, const PrefillBucket& bucket, const PrefillParams& params) {
  using T = PrefillTraits<kDim, kK, kV>;
  // Every sequence may leave a tile that is not full; one that has tiles has kPrefillRows rows.
  const int sequences = bucket.max_rows / kPrefillRows;
  LaunchConfig config;
  config.grid_x =
      bucket.max_rows * params.group / T::kRows + (sequences < bucket.max_sequences ? sequences : bucket.max_sequences);
  config.grid_y = bucket.num_kv_heads;
  config.threads = kPrefillThreads;
  config.shared_bytes = T::kSharedBytes;
  DUNLIN_LAUNCH(device, config, (PrefillKernel<T>), params);
}

template <int kDim>
void LaunchPrefill(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket, const PrefillParams& params) {
  if (k == KvFormat::kE4M3 && v == KvFormat::kE4M3) {
    LaunchPrefillOf<kDim, KvFormat::kE4M3, KvFormat::kE4M3>(device, bucket, params);
  } else if (k == KvFormat::kInt8 && v == KvFormat::kInt8) {
    LaunchPrefillOf<kDim, KvFormat::kInt8, KvFormat::kInt8>(device, bucket, params);
  } else if (k == KvFormat::kInt8 && v == KvFormat::kE4M3) {
    LaunchPrefillOf<kDim, KvFormat::kInt8, KvFormat::kE4M3>(device, bucket, params);
  } else {
    CHECK(k == KvFormat::kF16 && v == KvFormat::kF16)
        << "K and V formats " << static_cast<int>(k) << ' ' << static_cast<int>(v);
    LaunchPrefillOf<kDim, KvFormat::kF16, KvFormat::kF16>(device, bucket, params);
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_CUH_
