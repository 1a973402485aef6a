// The tile of attention_tile.h on the device: copies into shared memory and MMA fragments out of it. Shared by decode
// and prefill.
//   LoadKeys    A fragments of K (rows are tokens); (a0, a2) are the B fragment of tokens TileToken(0 ... 7), (a1, a3)
//               that of the other eight.
//   LoadValues  A fragments of V^T; (a0, a2) are the B fragment of dims ValueDim(m, 0 ... 7), (a1, a3) that of
//               ValueDim(m, 8 ... 15).
// So S of 16 tokens, rounded, is the other operand of PV as it is (prefill) or after Movmatrix (decode).
//
// Codes become halves times 1 / CodeUnit; their scales are the caller's. Thread-safety: device code; all lanes of a
// warp call. Errors: none; tokens that are not to be seen are copied as zeros, their scales are anything. Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_TILE_CUH_
#define DUNLIN_KERNELS_CUDA_ATTENTION_TILE_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/dev.h"

namespace dunlin::kernels::cuda {

template <KvFormat kFormat>
DUNLIN_DEV constexpr float CodeUnit() {
  return kFormat == KvFormat::kE4M3 ? dev::kE4M3Unit : 1.0f;
}
template <KvFormat kFormat>
DUNLIN_DEV void CodesToHalf(uint32_t codes, uint32_t (&half2)[2]) {
  if constexpr (kFormat == KvFormat::kE4M3) {
    dev::E4M3ToHalf(codes, half2);
  } else {
    dev::Int8ToHalf(codes, half2);
  }
}

// Load `load` of K: the A fragments of its steps.
template <KvFormat kFormat, int kDim>
DUNLIN_DEV void LoadKeys(const uint8_t* tile, int load, uint32_t (&a)[Tile<kFormat, kDim>::kKeySteps][4]) {
  using T = Tile<kFormat, kDim>;
  DUNLIN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const dev::U4 chunk = dev::LoadShared16(tile + T::KeyAt(dev::Lane(), half, load));
    const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    DUNLIN_UNROLL
    for (int s = 0; s < T::kKeySteps; ++s) {
      if constexpr (kFormat == KvFormat::kF16) {
        a[s][half] = words[2 * s];
        a[s][half + 2] = words[2 * s + 1];
      } else {
        uint32_t half2[2];
        CodesToHalf<kFormat>(words[s], half2);
        a[s][half] = half2[0];
        a[s][half + 2] = half2[1];
      }
    }
  }
}

// Load `load` of V: the A fragments of its tiles, m = load * kValueTiles + i.
template <KvFormat kFormat, int kDim>
DUNLIN_DEV void LoadValues(const uint8_t* tile, int load, uint32_t (&a)[Tile<kFormat, kDim>::kValueTiles][4]) {
  using T = Tile<kFormat, kDim>;
  if constexpr (kFormat == KvFormat::kF16) {
    dev::LdMatrix4Trans(a[0], tile + T::ValueAt(dev::Lane(), 0, load));
  } else {
    uint32_t words[4][T::kRun / 4];
    DUNLIN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint8_t* at = tile + T::ValueAt(dev::Lane(), i, load);
      if constexpr (T::kRun == 8) {
        const dev::U2 run = dev::LoadShared8(at);
        words[i][0] = run.x, words[i][1] = run.y;
      } else {
        const dev::U4 run = dev::LoadShared16(at);
        words[i][0] = run.x, words[i][1] = run.y, words[i][2] = run.z, words[i][3] = run.w;
      }
    }
    // Two tokens' bytes side by side: (token 0, token 1) of a dim, then of the next.
    DUNLIN_UNROLL
    for (int m = 0; m < T::kValueTiles; ++m) {
      const uint32_t selector = m % 2 == 0 ? 0x5140 : 0x7362;
      DUNLIN_UNROLL
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t half2[2];
        CodesToHalf<kFormat>(dev::BytePermute(words[2 * pair][m / 2], words[2 * pair + 1][m / 2], selector), half2);
        a[m][2 * pair] = half2[0];
        a[m][2 * pair + 1] = half2[1];
      }
    }
  }
}

// A token's scale, from the tile's scales; 1 where the format has none.
template <KvFormat kFormat>
DUNLIN_DEV float TokenScale(const uint8_t* scales, int token) {
  if constexpr (kFormat == KvFormat::kE4M3) return dev::BitsToFloat(static_cast<uint32_t>(scales[token]) << 23);
  if constexpr (kFormat == KvFormat::kInt8) return reinterpret_cast<const float*>(scales)[token];
  return 1.0f;
}

// Bytes of a tile into shared memory, by kThreads threads. Bit i of seen: token i is copied, else zeros are written.
template <KvFormat kFormat, int kDim, int kThreads>
DUNLIN_DEV void CopyTile(uint8_t* shared, const uint8_t* slab, uint32_t seen, int thread) {
  using T = Tile<kFormat, kDim>;
  DUNLIN_UNROLL
  for (int first = 0; first < T::kBytes / 16; first += kThreads) {
    const int chunk = first + thread;
    if (T::kBytes / 16 % kThreads != 0 && chunk >= T::kBytes / 16) break;
    dev::CopyAsync16(shared + 16 * chunk, slab + 16 * chunk, (seen >> (chunk / T::kRowChunks) & 1) != 0);
  }
}
template <KvFormat kFormat>
DUNLIN_DEV void CopyScales(uint8_t* shared, const uint8_t* scales, int thread) {
  constexpr int kChunks = kTileTokens * static_cast<int>(KvScaleBytes(kFormat)) / 16;
  if (thread >= 0 && thread < kChunks) dev::CopyAsync16(shared + 16 * thread, scales + 16 * thread, true);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_TILE_CUH_
