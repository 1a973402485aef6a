// The decode kernel, a template over formats, head_dim and tiles of heads. Included by the files that instantiate it.
//
// A block takes one work item after the other (attention_decode.h); each of its warps takes every kWarps-th tile of the
// part through its own ring of stages, so the loop has no barrier of the block. Per tile of 16 tokens and eight heads:
// S = K Q^T with K as the MMA's A operand, so that tokens are rows and heads columns; then V^T P^T with P^T from
// Movmatrix. At the end the warps' sums are added in their order.
// Thread-safety, errors: as attention.h.  Cost: per tile and warp 2 * head_dim / 16 MMAs for each eight heads, and each
// byte of K and V once through shared memory.  Source: swapped operands as LMDeploy TurboMind; ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_DECODE_CUH_
#define DUNLIN_KERNELS_CUDA_ATTENTION_DECODE_CUH_

#include "base/check.h"
#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda {

// The largest weight is about 2^kHeadroom: as many more bits of f16's range for the small ones.
inline constexpr float kHeadroom = 13.0f;
// In a reference a smaller exponent of V counts as this, which keeps 2^(score - reference), and so the sum, finite.
inline constexpr float kLeastExponent = -90.0f;

// kHeadTiles: heads of the group in eights.
template <KvFormat kKey, KvFormat kValue, int kDim, int kHeadTiles>
struct Decode {
  using K = Tile<kKey, kDim>;
  using V = Tile<kValue, kDim>;
  static constexpr int kSteps = kDim / 16;  // of S's contraction; also tiles of V's dims
  static constexpr bool kSharedQuery = kSteps * kHeadTiles > 16;
  static constexpr int kTileBytes = K::kBytes + V::kBytes;
  static constexpr int kWarps = kTileBytes > 8192 ? 2 : 4;
  static constexpr int kThreads = 32 * kWarps;
  // 30 to 98 KB a block: one at least fits wherever 99 KB are.
  static constexpr int kStages = kTileBytes <= 2048 ? 5 : kSharedQuery ? 2 : 3;
  // A stage: K, V, K's scales, V's scales.
  static constexpr int kKeyScales = kTileBytes;
  static constexpr int kValueScales = kKeyScales + K::kScaleBytes;
  static constexpr int kStageBytes = kValueScales + V::kScaleBytes;
  static constexpr int kWarpBytes = kStages * kStageBytes;
  static_assert(kWarpBytes >= kHeadTiles * kSteps * 4 * 32 * 4, "a warp's sums fit where its stages were");
  static constexpr int kSumsAt = kWarps * kWarpBytes;
  static constexpr int kQueryAt = kSumsAt + kWarps * kHeadTiles * 8 * static_cast<int>(sizeof(SlotSum));
  static constexpr int kSharedBytes = kQueryAt + (kSharedQuery ? kHeadTiles * kSteps * 32 * 8 : 0);
  // What registers allow, and 228 KB of shared memory, of which every block takes one more.
  static constexpr int kRegisterBlocks = kDim * kHeadTiles <= 128 ? 4 : kSharedQuery ? 2 : 3;
  static constexpr int kSharedBlocks = 228 * 1024 / (kSharedBytes + 1024);
  static constexpr int kBlocksPerSm = kRegisterBlocks < kSharedBlocks ? kRegisterBlocks : kSharedBlocks;

  // ---- A warp's state ----

  // The B fragments of Q; in shared memory where registers are short.
  struct Query {
    uint32_t b[kSharedQuery ? 1 : kHeadTiles][kSharedQuery ? 1 : kSteps][2];
  };
  // Of head column 2t + c of each head tile.
  struct Sums {
    float vector[kHeadTiles][kSteps][4];
    float reference[kHeadTiles][2];
    float sum[kHeadTiles][2];  // of this lane's tokens
  };
  // One item, and the tiles of this warp in it: begin, begin + kWarps, ... below end, counted along the runs.
  struct Item {
    SeenRuns tokens, tiles;
    const int32_t* pages;
    int32_t head;
    int32_t begin, end;
  };

  // item.tokens.Contains for a token of a page, without branches.
  DUNLIN_DEV static bool Sees(const Item& item, int token) {
    const int after = token >= item.tokens.low ? 1 : 0, sink = token < item.tokens.sink_end ? 1 : 0;
    return ((token < item.tokens.end ? 1 : 0) & (after | sink)) != 0;
  }
  DUNLIN_DEV static int FirstToken(const Item& item, int index) {
    return (index < item.tiles.sink_end ? index : item.tiles.low + index - item.tiles.sink_end) * kTileTokens;
  }
  DUNLIN_DEV static int32_t PageOf(const DecodeArgs& args, const Item& item, int index) {
    return index < item.end ? item.pages[PageOfTile(args.slabs, FirstToken(item, index))] : 0;
  }

  DUNLIN_DEV static void Issue(const DecodeArgs& args, const Item& item, int index, int32_t page, uint8_t* stage) {
    const int first = FirstToken(item, index), lane = dev::Lane();
    const uint32_t seen = dev::Ballot(Sees(item, first + lane % kTileTokens));
    const LayerSlabs& slabs = args.slabs;
    const uint8_t* at = slabs.base + static_cast<size_t>(page) * slabs.page_bytes;
    const size_t slot = SlotOf(slabs, item.head, first);
    CopyTile<kKey, kDim, 32>(stage, at + slabs.k + slot * K::kRowBytes, seen, lane);
    CopyTile<kValue, kDim, 32>(stage + K::kBytes, at + slabs.v + slot * V::kRowBytes, seen, lane);
    CopyScales<kKey>(stage + kKeyScales, at + slabs.k_scale + slot * KvScaleBytes(kKey), lane);
    CopyScales<kValue>(stage + kValueScales, at + slabs.v_scale + slot * KvScaleBytes(kValue), lane - 16);
  }

  DUNLIN_DEV static void LoadQueryStep(const float* q, int group, int tile, int step, uint32_t (&b)[2]) {
    const int head = dev::Lane() / 4 + 8 * tile;
    b[0] = b[1] = 0;
    if (head >= group) return;
    const dev::U4 x = dev::LoadGlobal16(q + head * kDim + K::KeyDim(dev::Lane() % 4, step));
    b[0] = dev::PackHalf2(dev::BitsToFloat(x.x), dev::BitsToFloat(x.y));
    b[1] = dev::PackHalf2(dev::BitsToFloat(x.z), dev::BitsToFloat(x.w));
  }
  DUNLIN_DEV static uint32_t* SharedQuery(int tile, int step) {
    return reinterpret_cast<uint32_t*>(dev::Shared() + kQueryAt) + ((tile * kSteps + step) * 32 + dev::Lane()) * 2;
  }
  // q: of the group's first head.
  DUNLIN_DEV static void LoadQuery(const float* q, int group, Query* query) {
    if constexpr (kSharedQuery) {
      for (int i = dev::Warp(); i < kHeadTiles * kSteps; i += kWarps) {
        uint32_t b[2];
        LoadQueryStep(q, group, i / kSteps, i % kSteps, b);
        SharedQuery(i / kSteps, i % kSteps)[0] = b[0];
        SharedQuery(i / kSteps, i % kSteps)[1] = b[1];
      }
      dev::SyncThreads();
    } else {
      DUNLIN_UNROLL
      for (int n = 0; n < kHeadTiles; ++n) {
        DUNLIN_UNROLL
        for (int step = 0; step < kSteps; ++step) LoadQueryStep(q, group, n, step, query->b[n][step]);
      }
    }
  }

  DUNLIN_DEV static void Scores(const uint8_t* stage, const Query& query, float (&s)[kHeadTiles][4]) {
    DUNLIN_UNROLL
    for (int n = 0; n < kHeadTiles; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
    DUNLIN_UNROLL
    for (int load = 0; load < K::kKeyLoads; ++load) {
      uint32_t a[K::kKeySteps][4];
      LoadKeys<kKey, kDim>(stage, load, a);
      DUNLIN_UNROLL
      for (int i = 0; i < K::kKeySteps; ++i) {
        const int step = load * K::kKeySteps + i;
        DUNLIN_UNROLL
        for (int n = 0; n < kHeadTiles; ++n) {
          if constexpr (kSharedQuery) {
            const dev::U2 shared = dev::LoadShared8(SharedQuery(n, step));
            const uint32_t b[2] = {shared.x, shared.y};
            dev::MmaF16(s[n], a[i], b);
          } else {
            dev::MmaF16(s[n], a[i], query.b[n][step]);
          }
        }
      }
    }
  }

  // s: products of codes and q, to scores in base 2; tokens that the row does not see: -inf. scale, exponent: V's, of
  // this lane's two tokens.
  DUNLIN_DEV static void Mask(const DecodeArgs& args, const Item& item, int first, const uint8_t* stage,
                              float (&s)[kHeadTiles][4], float (&scale)[2], float (&exponent)[2]) {
    DUNLIN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int token = TileToken(dev::Lane() / 4 + 8 * half);
      const bool seen = Sees(item, first + token);
      const float factor = TokenScale<kKey>(stage + kKeyScales, token) * (args.score_factor * CodeUnit<kKey>());
      scale[half] = seen ? TokenScale<kValue>(stage + kValueScales, token) : 1.0f;
      const auto own = static_cast<float>(static_cast<int32_t>(dev::FloatBits(scale[half]) >> 23) - 127);
      exponent[half] = own > kLeastExponent ? own : kLeastExponent;
      DUNLIN_UNROLL
      for (int n = 0; n < kHeadTiles; ++n) {
        DUNLIN_UNROLL
        for (int c = 2 * half; c < 2 * half + 2; ++c) {
          float x = s[n][c] * factor;
          // tanh(y) = 1 - 2 / (exp(2 y) + 1); the quotient to 2^-21 by its logarithm.
          if (args.cap != 0.0f) x = args.cap - args.cap * dev::Exp2(1.0f - dev::Log2(dev::Exp2(x) + 1.0f));
          s[n][c] = seen ? x : dev::BitsToFloat(0xFF800000u);
        }
      }
    }
  }

  // One column (head) of a tile: moves its reference where it must, and turns its scores x, y into weights of V's
  // codes. Returns what the old sums are to be multiplied with.
  DUNLIN_DEV static float Weigh(const float (&scale)[2], const float (&exponent)[2], float* x, float* y,
                                float* reference, float* sum) {
    float top = *x + exponent[0];
    top = top > *y + exponent[1] ? top : *y + exponent[1];
    DUNLIN_UNROLL
    for (int mask = 4; mask < 32; mask *= 2) {
      const float other = dev::ShuffleXor(top, mask);
      top = top > other ? top : other;
    }
    const auto wanted = static_cast<float>(dev::RoundToInt(top - (kHeadroom - 0.5f)));
    const float next = wanted > *reference ? wanted : *reference;
    const float shrink = dev::Exp2(*reference - next);
    *reference = next;
    *x = dev::Exp2(*x - next);
    *y = dev::Exp2(*y - next);
    *sum = *sum * shrink + (*x + *y);
    *x *= scale[0];
    *y *= scale[1];
    return shrink;
  }

  DUNLIN_DEV static void AddTile(const DecodeArgs& args, const Item& item, int index, const uint8_t* stage,
                                 const Query& query, Sums* sums) {
    float s[kHeadTiles][4], scale[2], exponent[2];
    Scores(stage, query, s);
    Mask(args, item, FirstToken(item, index), stage, s, scale, exponent);
    uint32_t p[kHeadTiles][2];
    DUNLIN_UNROLL
    for (int n = 0; n < kHeadTiles; ++n) {
      float shrink[2];
      DUNLIN_UNROLL
      for (int c = 0; c < 2; ++c) {
        shrink[c] = Weigh(scale, exponent, &s[n][c], &s[n][2 + c], &sums->reference[n][c], &sums->sum[n][c]);
      }
      if (dev::Ballot(shrink[0] != 1.0f || shrink[1] != 1.0f) != 0) {
        DUNLIN_UNROLL
        for (int m = 0; m < kSteps; ++m) {
          DUNLIN_UNROLL
          for (int c = 0; c < 4; ++c) sums->vector[n][m][c] *= shrink[c % 2];
        }
      }
      p[n][0] = dev::Movmatrix(dev::PackHalf2(s[n][0], s[n][1]));
      p[n][1] = dev::Movmatrix(dev::PackHalf2(s[n][2], s[n][3]));
    }
    DUNLIN_UNROLL
    for (int load = 0; load < V::kValueLoads; ++load) {
      uint32_t a[V::kValueTiles][4];
      LoadValues<kValue, kDim>(stage + K::kBytes, load, a);
      DUNLIN_UNROLL
      for (int i = 0; i < V::kValueTiles; ++i) {
        DUNLIN_UNROLL
        for (int n = 0; n < kHeadTiles; ++n) dev::MmaF16(sums->vector[n][load * V::kValueTiles + i], a[i], p[n]);
      }
    }
  }

  // This warp's tiles of the item.
  DUNLIN_DEV static void AddTiles(const DecodeArgs& args, const Item& item, const Query& query, Sums* sums) {
    uint8_t* const ring = dev::Shared() + dev::Warp() * kWarpBytes;
    int next = item.begin;  // to issue
    int32_t page = PageOf(args, item, next);
    int into = 0, from = 0;  // stages
    const auto issue = [&] {
      if (next < item.end) Issue(args, item, next, page, ring + into * kStageBytes);
      dev::CopyAsyncCommit();
      next += kWarps;
      into = into + 1 < kStages ? into + 1 : 0;
      page = PageOf(args, item, next);  // a tile early: it is there when its copies begin
    };
    for (int i = 0; i < kStages - 1; ++i) issue();
    for (int index = item.begin; index < item.end; index += kWarps) {
      dev::CopyAsyncWait<kStages - 2>();
      dev::SyncWarp();  // this tile is there for all lanes; all lanes have read the one before, whose stage is next
      issue();
      AddTile(args, item, index, ring + from * kStageBytes, query, sums);
      from = from + 1 < kStages ? from + 1 : 0;
    }
    dev::CopyAsyncWait<0>();
    dev::SyncWarp();
  }

  // The warps' sums into the slot.
  DUNLIN_DEV static void Store(const DecodeArgs& args, int slot, int head, Sums* sums) {
    const int lane = dev::Lane(), t = lane % 4, group = args.num_q_heads / args.num_kv_heads;
    auto* pairs = reinterpret_cast<SlotSum*>(dev::Shared() + kSumsAt);
    auto* mine = reinterpret_cast<float*>(dev::Shared() + dev::Warp() * kWarpBytes);
    DUNLIN_UNROLL
    for (int n = 0; n < kHeadTiles; ++n) {
      DUNLIN_UNROLL
      for (int c = 0; c < 2; ++c) {
        float sum = sums->sum[n][c];
        DUNLIN_UNROLL
        for (int mask = 4; mask < 32; mask *= 2) sum += dev::ShuffleXor(sum, mask);
        if (lane < 4) pairs[(dev::Warp() * kHeadTiles + n) * 8 + 2 * t + c] = {sums->reference[n][c], sum};
      }
      DUNLIN_UNROLL
      for (int m = 0; m < kSteps; ++m) {
        DUNLIN_UNROLL
        for (int c = 0; c < 4; ++c) mine[((n * kSteps + m) * 4 + c) * 32 + lane] = sums->vector[n][m][c];
      }
    }
    dev::SyncThreads();
    DUNLIN_UNROLL
    for (int n = 0; n < kHeadTiles; ++n) {
      DUNLIN_UNROLL
      for (int c = 0; c < 2; ++c) StoreColumn(args, slot, head, group, n, c);
    }
    dev::SyncThreads();  // before the next item's copies
  }

  DUNLIN_DEV static void StoreColumn(const DecodeArgs& args, int slot, int kv_head, int group, int n, int c) {
    const int lane = dev::Lane(), column = 8 * n + lane % 4 * 2 + c;
    const auto* pairs = reinterpret_cast<const SlotSum*>(dev::Shared() + kSumsAt) + column;
    float reference = kNoReference, sum = 0.0f, weight[kWarps];
    DUNLIN_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const float r = pairs[w * kHeadTiles * 8].reference;
      reference = r > reference ? r : reference;
    }
    DUNLIN_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      weight[w] = dev::Exp2(pairs[w * kHeadTiles * 8].reference - reference);
      sum = dev::Fma(weight[w], pairs[w * kHeadTiles * 8].sum, sum);
    }
    if (column >= group) return;
    const size_t at = static_cast<size_t>(slot) * static_cast<size_t>(args.num_q_heads) +
                      static_cast<size_t>(kv_head * group + column);
    if (dev::Warp() == 0 && lane < 4) {
      args.work.sums[at] = {sum == 0.0f ? dev::BitsToFloat(0xFF800000u) : reference, sum};
    }
    const auto* shared = reinterpret_cast<const float*>(dev::Shared()) + lane;
    for (int m = dev::Warp() * (kSteps / kWarps); m < (dev::Warp() + 1) * (kSteps / kWarps); ++m) {
      DUNLIN_UNROLL
      for (int half = 0; half < 2; ++half) {
        float x = 0.0f;
        DUNLIN_UNROLL
        for (int w = 0; w < kWarps; ++w) {
          x = dev::Fma(weight[w], shared[w * (kWarpBytes / 4) + ((n * kSteps + m) * 4 + 2 * half + c) * 32], x);
        }
        args.work.vectors[at * kDim + static_cast<size_t>(V::ValueDim(m, lane / 4 + 8 * half))] =
            x * CodeUnit<kValue>();
      }
    }
  }

  DUNLIN_DEV static void Run(const DecodeArgs& args) {
    const int items = args.work.counts->slots * args.num_kv_heads;
    const int group = args.num_q_heads / args.num_kv_heads;
    for (int i = dev::BlockX(); i < items; i += dev::GridX()) {
      const int slot = i / args.num_kv_heads, head = i % args.num_kv_heads;
      const DecodeSlot at = args.work.slots[slot];
      const int position = args.positions[at.row];
      Item item;
      item.tokens = TokensSeen(args.pattern, position, position);
      item.tiles = PagesOf(item.tokens, kTileTokens);
      item.pages = args.pages + args.sequences[args.row_sequence[at.row]].first_page;
      item.head = head;
      const int tiles = item.tiles.Count(), part = PartTiles(tiles, args.max_parts);
      item.begin = at.part * part + dev::Warp();
      item.end = (at.part + 1) * part < tiles ? (at.part + 1) * part : tiles;
      Query query;
      LoadQuery(args.q + (static_cast<size_t>(at.row) * static_cast<size_t>(args.num_q_heads) +
                          static_cast<size_t>(head * group)) *
                             kDim,
                group, &query);
      Sums sums;
      DUNLIN_UNROLL
      for (int n = 0; n < kHeadTiles; ++n) {
        sums.reference[n][0] = sums.reference[n][1] = kNoReference;
        sums.sum[n][0] = sums.sum[n][1] = 0.0f;
        DUNLIN_UNROLL
        for (int m = 0; m < kSteps; ++m) {
          DUNLIN_UNROLL
          for (int c = 0; c < 4; ++c) sums.vector[n][m][c] = 0.0f;
        }
      }
      AddTiles(args, item, query, &sums);
      Store(args, slot, head, &sums);
    }
  }
};

template <KvFormat kKey, KvFormat kValue, int kDim, int kHeadTiles>
DUNLIN_KERNEL((Decode<kKey, kValue, kDim, kHeadTiles>::kThreads),
              (Decode<kKey, kValue, kDim, kHeadTiles>::kBlocksPerSm))
void DecodeKernel(DecodeArgs args) {
  Decode<kKey, kValue, kDim, kHeadTiles>::Run(args);
}

// A grid that fills the device once.
template <KvFormat kKey, KvFormat kValue, int kDim, int kHeadTiles>
void LaunchDecodeKernel(Device* device, const DecodeArgs& args) {
  using D = Decode<kKey, kValue, kDim, kHeadTiles>;
  // An SM has about 1 KB more than the most a block may ask for, and takes as much of its own for every block.
  constexpr size_t kReserved = 1024;
  const size_t fit = (device->info().shared_bytes_per_block + kReserved) / (D::kSharedBytes + kReserved);
  CHECK_GE(fit, 1u) << "shared memory of a block";
  const int blocks = fit < D::kBlocksPerSm ? static_cast<int>(fit) : D::kBlocksPerSm;
  LaunchConfig config;
  config.grid_x = device->info().num_sms * blocks;
  config.threads = D::kThreads;
  config.shared_bytes = D::kSharedBytes;
  DUNLIN_LAUNCH(device, config, (DecodeKernel<kKey, kValue, kDim, kHeadTiles>), args);
}

template <KvFormat kKey, KvFormat kValue, int kDim>
void LaunchDecodeFormats(Device* device, const DecodeArgs& args) {
  if (args.num_q_heads / args.num_kv_heads <= 8) {
    LaunchDecodeKernel<kKey, kValue, kDim, 1>(device, args);
  } else {
    LaunchDecodeKernel<kKey, kValue, kDim, 2>(device, args);
  }
}

template <int kDim>
void LaunchDecode(Device* device, const DecodeArgs& args, KvFormat k_format, KvFormat v_format) {
  if (k_format == KvFormat::kE4M3) return LaunchDecodeFormats<KvFormat::kE4M3, KvFormat::kE4M3, kDim>(device, args);
  if (k_format == KvFormat::kF16) return LaunchDecodeFormats<KvFormat::kF16, KvFormat::kF16, kDim>(device, args);
  if (v_format == KvFormat::kE4M3) return LaunchDecodeFormats<KvFormat::kInt8, KvFormat::kE4M3, kDim>(device, args);
  return LaunchDecodeFormats<KvFormat::kInt8, KvFormat::kInt8, kDim>(device, args);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_DECODE_CUH_
