// Between the plan, the decode kernels and the merge of attention.h: the work list, its place in the workspace, and the
// arguments of a launch.
//
// A row's tokens lie in tiles of 16 (attention_tile.h); the tiles that it sees, in order, are cut into parts of
// PartTiles each, which follows from their number and the shape alone, so that a row's sums do not depend on its batch.
// A slot is a (row, part); a work item a slot and a kv head. A slot holds per q head a reference R, a sum and a vector:
//   sum = sum of 2^(s - R), vector = sum of 2^(s - R) V      over the part's tokens, s the score in base 2.
// R is not the largest s but follows the largest s + e, 2^e being the scale's power of two of the token's V: the weight
// that meets V's codes, 2^(s - R) times the scale, is 2^12 to 2^14 for the largest, so those that count survive the
// rounding to f16 whatever V's scales are (between 2^-100 and 2^119), and R is the only state. R is an integer: moving
// it changes no rounding, so a weight's is the same whatever came before, and how keys are split hardly shows. A zero V
// has scale 1: among V below 2^-30 it costs them precision. R is -inf where a part holds no visible token.
//
// Thread-safety: plain values and pure functions.  Owns: nothing.  Errors: none (attention.h checks).
// Cost: a slot is num_q_heads * (head_dim + 2) floats, written once and read once.  Source: Flash-Decoding; ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_DECODE_H_
#define DUNLIN_KERNELS_CUDA_ATTENTION_DECODE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention_mask.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/host_device.h"

namespace dunlin::kernels::cuda {

inline constexpr int kMinPartTiles = 16;
// The floor of a reference: below every score, so that differences are never inf - inf.
inline constexpr float kNoReference = -1e30f;

inline constexpr int kMostParts = 64;

// Parts of a row at most: enough items for the largest devices where a step has one row, few enough to merge.
DUNLIN_HOST_DEVICE constexpr int MaxParts(int num_kv_heads) {
  const int parts = 256 / num_kv_heads;
  return parts > kMostParts ? kMostParts : parts < 8 ? 8 : parts;
}
// Multiples of four: a tile for each warp.
DUNLIN_HOST_DEVICE constexpr int PartTiles(int tiles, int max_parts) {
  const int part = (tiles + 4 * max_parts - 1) / (4 * max_parts) * 4;
  return part > kMinPartTiles ? part : kMinPartTiles;
}
DUNLIN_HOST_DEVICE constexpr int NumParts(int tiles, int max_parts) {
  const int part = PartTiles(tiles, max_parts);
  return (tiles + part - 1) / part;
}
DUNLIN_HOST_DEVICE constexpr SeenRuns TilesSeen(const AttentionPattern& pattern, int position) {
  return PagesOf(TokensSeen(pattern, position, position), kTileTokens);
}

struct DecodeSlot {
  int32_t row;
  int32_t part;
};
struct DecodeRow {
  int32_t row;
  int32_t first_slot;
};
struct DecodeCounts {
  int32_t slots;
  int32_t rows;
};
struct SlotSum {
  float reference;
  float sum;
};

struct DecodeWorkspace {
  DecodeCounts* counts = nullptr;  // [1]
  DecodeRow* rows = nullptr;       // [max_decode_rows]
  DecodeSlot* slots = nullptr;     // [max_slots]
  SlotSum* sums = nullptr;         // [max_slots, num_q_heads]
  float* vectors = nullptr;        // [max_slots, num_q_heads, head_dim]
  size_t bytes = 0;
};
DecodeWorkspace DecodeWorkspaceAt(uint8_t* workspace, const AttentionLimits& limits);

struct DecodeArgs {
  LayerSlabs slabs;
  AttentionPattern pattern;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t max_parts = 0;
  float score_factor = 0.0f;  // to base 2; with a cap: to the argument of the exponential in tanh
  float cap = 0.0f;           // in base 2; 0: none
  const float* q = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* row_sequence = nullptr;
  const DeviceSequence* sequences = nullptr;
  const int32_t* pages = nullptr;
  DecodeWorkspace work;
};

// Defined for 64, 128 and 256, each in a file of its own.
template <int kDim>
void LaunchDecode(Device* device, const DecodeArgs& args, KvFormat k_format, KvFormat v_format);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_DECODE_H_
