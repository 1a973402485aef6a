// The shape of a tile of attention: 16 consecutive tokens of one kv head's K or V slab (SlabOrder::kDevice), copied
// into shared memory as they lie in the page, and which byte, token and dim each lane takes. attention_tile.cuh loads
// them.
//
// An MMA's contraction order is free as long as both operands have the same one, so each lane takes runs of bytes:
//   K   row r of the 16 is token TileToken(r); lane (g, t) = (lane / 4, lane % 4) reads 16 bytes of a token at a time.
//       Step s of the D / 16 steps contracts dims KeyDim(t, s) ... + 3 of lane t: the first two are the fragment's k =
//       2t, 2t + 1, the others k = 2t + 8, 2t + 9.
//   V   k = r is token TileToken(r) likewise; row r of tile m of V^T is dim ValueDim(m, r).
// Swapping every other pair of tokens (TileToken) together with SlabChunk makes every load free of bank conflicts for D
// 64, 128 and 256 in formats of one and two bytes: tests/kernels/cuda/attention_tile_test.cc counts them. Two rows of
// four chunks share the 128 bytes of all banks, so eight lanes that take a quarter of four rows each need rows of both
// parities, which the swap gives them, and the two rows of a parity apart, which SlabChunk does.
//
// Thread-safety: pure functions and plain values.  Errors: does not compile for other D.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_TILE_H_
#define DUNLIN_KERNELS_CUDA_ATTENTION_TILE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/batch.h"
#include "kernels/host_device.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

inline constexpr int kTileTokens = 16;

DUNLIN_HOST_DEVICE constexpr int TileToken(int row) { return row ^ ((row >> 1) & 1); }

template <KvFormat kFormat, int kDim>
struct Tile {
  static constexpr int kValueBytes = static_cast<int>(KvValueBytes(kFormat));
  static_assert(kDim == 64 || kDim == 128 || kDim == 256);
  static constexpr int kRowBytes = kDim * kValueBytes;
  static constexpr int kRowChunks = kRowBytes / 16;
  static constexpr int kBytes = kTileTokens * kRowBytes;
  static constexpr int kScaleBytes = kTileTokens * static_cast<int>(KvScaleBytes(kFormat));
  // K: loads of a lane, and steps of each.
  static constexpr int kKeyLoads = kRowChunks / 4;
  static constexpr int kKeySteps = kValueBytes == 1 ? 4 : 2;
  // V: loads of a lane, and tiles of 16 dims of each. A lane's run of a token's bytes is kRun long.
  static constexpr int kRun = kDim == 64 ? 8 : 16;
  static constexpr int kValueTiles = kValueBytes == 1 ? kRun / 2 : 1;
  static constexpr int kValueLoads = kDim / 16 / kValueTiles;

  DUNLIN_HOST_DEVICE static constexpr int ChunkAt(int token, int chunk) {
    return token * kRowBytes + SlabChunk(chunk, token, kRowChunks) * 16;
  }
  // Where a lane reads 16 bytes of token TileToken(lane / 4 + 8 * half).
  DUNLIN_HOST_DEVICE static constexpr int KeyChunk(int t, int load) {
    return kRowChunks == 4 ? t : 8 * (load / 2) + 2 * t + load % 2;
  }
  DUNLIN_HOST_DEVICE static constexpr int KeyAt(int lane, int half, int load) {
    return ChunkAt(TileToken(lane / 4 + 8 * half), KeyChunk(lane % 4, load));
  }
  DUNLIN_HOST_DEVICE static constexpr int KeyDim(int t, int step) {
    return KeyChunk(t, step / kKeySteps) * (16 / kValueBytes) + step % kKeySteps * 4;
  }
  // One byte: where a lane reads kRun bytes of its token i of 4. Two bytes: its row of LdMatrix4Trans (i is 0).
  DUNLIN_HOST_DEVICE static constexpr int ValueAt(int lane, int i, int load) {
    if constexpr (kValueBytes == 2) {
      return ChunkAt(TileToken(lane % 8 + 8 * (lane / 16)), 2 * load + lane / 8 % 2);
    } else {
      const int g = lane / 4, token = TileToken(lane % 4 * 2 + i % 2 + 8 * (i / 2));
      return kDim == 64 ? ChunkAt(token, g / 2) + g % 2 * 8 : ChunkAt(token, g + 8 * load);
    }
  }
  DUNLIN_HOST_DEVICE static constexpr int ValueDim(int m, int row) {
    if constexpr (kValueBytes == 2) return 16 * m + row;
    return m / kValueTiles * 128 + row % 8 * kRun + m % kValueTiles * 2 + row / 8;
  }
};

// Where one layer's slabs are, for kernels: offsets in a page of head 0's token 0.
struct LayerSlabs {
  const uint8_t* base = nullptr;
  size_t page_bytes = 0;
  size_t k = 0, v = 0, k_scale = 0, v_scale = 0;
  int32_t page_tokens = 0;
  uint64_t tile_pages = 0;  // pages of a tile, times 2^32, rounded up
};
inline LayerSlabs SlabsOfLayer(const DevicePages& pages, int layer) {
  const PageLayout& l = pages.layout;
  const uint64_t page_tiles = static_cast<uint64_t>(l.page_tokens / kTileTokens);
  return {pages.base,
          l.page_bytes,
          l.KOffset(layer, 0),
          l.VOffset(layer, 0),
          l.KScaleOffset(layer, 0),
          l.VScaleOffset(layer, 0),
          l.page_tokens,
          ((uint64_t{1} << 32) + page_tiles - 1) / page_tiles};
}
// token / page_tokens for the first token of a tile, without a division; exact for tokens below 2^28 and pages of up to
// 2^8 tiles (the reciprocal is too large by less than 2^-32).
DUNLIN_HOST_DEVICE constexpr int PageOfTile(const LayerSlabs& slabs, int token) {
  return static_cast<int>(static_cast<uint64_t>(token / kTileTokens) * slabs.tile_pages >> 32);
}
// Slots from head 0's token 0 to that token of `head`: times the bytes of a row or of a scale.
DUNLIN_HOST_DEVICE constexpr size_t SlotOf(const LayerSlabs& slabs, int head, int token) {
  return static_cast<size_t>(head * slabs.page_tokens + token - PageOfTile(slabs, token) * slabs.page_tokens);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_TILE_H_
