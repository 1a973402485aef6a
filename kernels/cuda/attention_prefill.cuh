// The kernel of prefill attention: FlashAttention-2 over paged K and V. Included by the files that instantiate it.
//
// A block takes kRows of one sequence's flat rows (flat = row * group + head within the group: all heads of a group
// share the K and V that they read) and walks the tokens that any of them sees, kKeys at a time, in tiles of 16
// (attention_tile.h) that never cross a page. Each warp owns 16 * kRowTiles flat rows:
//     S = Q K^T   A = Q, f16 fragments kept in shared memory;  B = K, converted in registers
//     O += P V    A = P, S's fragments as they are;            B = V, converted and paired in registers
// K, V and their scales are copied as the pages store them, by cp.async, while the stage before is computed.
//
// Slots that nobody wrote lie behind the sequence's last token: K and V are zeros there instead of copies, and their
// scales, which are copied, may be anything (attention_prefill_softmax.cuh).
//
// Thread-safety: device code.  Errors: none.  Cost: K and V of what the rows see once per kRows flat rows and kv head.
// Source: FlashAttention-2 (arXiv 2307.08691); ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_CUH_
#define DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_CUH_

#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "kernels/attention_mask.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/attention_prefill_softmax.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

template <KvFormat kKey, KvFormat kValue, int kDim>
struct Prefill {
  using K = Tile<kKey, kDim>;
  using V = Tile<kValue, kDim>;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocksPerSm = 2;
  // Of 16 flat rows, per warp: what the registers hold.
  static constexpr int kRowTiles = kDim == 64 || (kDim == 128 && V::kValueBytes == 1) ? 2 : 1;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kTiles = 2;  // of tokens, in a stage
  static constexpr int kKeys = kTiles * kTileTokens;
  static constexpr int kSteps = kDim / 16;  // of S's contraction; also pairs of n-tiles of O
  using Softmax = PrefillSoftmax<kKey, kValue, kRowTiles, kTiles>;
  using Scores = typename Softmax::Scores;
  // Shared memory: Q's fragments [warp][row tile][step][lane], then the stages. A stage: K of its tiles, V, K's scales,
  // V's scales. Then the block's Work, which lives there because registers are short.
  static constexpr int kStages = 2;
  static constexpr int kWarpQueryBytes = kRowTiles * kSteps * 32 * 16;
  static constexpr int kValuesAt = kTiles * K::kBytes;
  static constexpr int kKeyScalesAt = kValuesAt + kTiles * V::kBytes;
  static constexpr int kValueScalesAt = kKeyScalesAt + kTiles * K::kScaleBytes;
  static constexpr int kStageBytes = (kValueScalesAt + kTiles * V::kScaleBytes + 127) / 128 * 128;
  static constexpr int kWorkAt = kWarps * kWarpQueryBytes + kStages * kStageBytes;

  // A block's flat rows [begin, end) of a sequence, and the tiles that any of them sees, counted along the runs.
  struct Work {
    DeviceSequence sequence;
    int begin, end;
    int group;
    int tokens;  // up to its last row's
    SeenRuns tiles;
    DUNLIN_DEV int Position(int flat) const { return sequence.context_tokens + flat / group; }
    DUNLIN_DEV int Token(int tile) const {
      return kTileTokens * (tile < tiles.sink_end ? tile : tiles.low + tile - tiles.sink_end);
    }
  };
  static constexpr int kSharedBytes = kWorkAt + static_cast<int>(sizeof(Work));
  // What a lane keeps of its rows; [row tile][n-tile] C fragments.
  struct State {
    float o[kRowTiles][2 * kSteps][4];
    typename Softmax::Rows rows;
  };

  // One warp. Blocks go through the sequences in order; a sequence's last rows, which see most, come first. Work that
  // ends at 0: there is none for this block.
  DUNLIN_DEV static void FindWork(const PrefillArgs& args, Work* work) {
    const int sequences = args.counts->num_sequences, lane = dev::Lane();
    if (lane == 0) work->end = 0;
    dev::SyncWarp();
    int before = 0;  // blocks
    for (int first = 0; first < sequences && before <= dev::BlockX(); first += 32) {
      DeviceSequence s = {};
      if (first + lane < sequences) s = args.sequences[first + lane];
      const int flat = s.num_rows >= kPrefillRows ? s.num_rows * args.group : 0;
      const int blocks = (flat + kRows - 1) / kRows;
      int end = blocks;  // of this lane's sequence: a sum over the lanes up to it
      DUNLIN_UNROLL
      for (int step = 1; step < 32; step *= 2) {
        const int other = dev::Shuffle(end, lane - step);
        end += lane >= step ? other : 0;
      }
      end += before;
      before = dev::Shuffle(end, 31);
      if (dev::BlockX() >= end || dev::BlockX() < end - blocks) continue;
      work->sequence = s;
      work->group = args.group;
      work->begin = (end - 1 - dev::BlockX()) * kRows;
      work->end = work->begin + kRows < flat ? work->begin + kRows : flat;
      const int low = work->Position(work->begin), high = work->Position(work->end - 1);
      work->tokens = high + 1;
      work->tiles = PagesOf(TokensSeen(args.pattern, low, high), kTileTokens);
    }
  }

  // Half of the block copies one tile of a stage, half the other.
  DUNLIN_DEV static int CopiedTile(int stage) { return stage * kTiles + dev::Warp() / (kWarps / kTiles); }
  DUNLIN_DEV static int32_t FindPage(const PrefillArgs& args, const Work& work, int stage) {
    const int tile = CopiedTile(stage);
    if (tile >= work.tiles.Count()) return 0;
    return args.pages[work.sequence.first_page + PageOfTile(args.slabs, work.Token(tile))];
  }
  DUNLIN_DEV static void Copy(const PrefillArgs& args, const Work& work, int stage, int32_t page, uint8_t* to) {
    constexpr int kCopiers = kThreads / kTiles;
    if (stage * kTiles >= work.tiles.Count()) return;
    const int tile = CopiedTile(stage), at = tile % kTiles, thread = dev::ThreadX() % kCopiers;
    const LayerSlabs& slabs = args.slabs;
    // A tile behind the last token is all zeros.
    const int token = work.Token(tile), written = work.tokens - token;
    const uint32_t seen = written >= kTileTokens ? 0xFFFFu : written > 0 ? (1u << written) - 1 : 0;
    const uint8_t* from = slabs.base + static_cast<size_t>(page) * slabs.page_bytes;
    const size_t slot = SlotOf(slabs, dev::BlockY(), token);
    CopyTile<kKey, kDim, kCopiers>(to + at * K::kBytes, from + slabs.k + slot * K::kRowBytes, seen, thread);
    CopyTile<kValue, kDim, kCopiers>(to + kValuesAt + at * V::kBytes, from + slabs.v + slot * V::kRowBytes, seen,
                                     thread);
    CopyScales<kKey>(to + kKeyScalesAt + at * K::kScaleBytes, from + slabs.k_scale + slot * KvScaleBytes(kKey), thread);
    CopyScales<kValue>(to + kValueScalesAt + at * V::kScaleBytes, from + slabs.v_scale + slot * KvScaleBytes(kValue),
                       thread - 32);
  }

  DUNLIN_DEV static size_t RowOffset(const PrefillArgs& args, const Work& work, int flat) {
    const int row = work.sequence.first_row + flat / args.group, head = dev::BlockY() * args.group + flat % args.group;
    return (static_cast<size_t>(row) * static_cast<size_t>(args.num_q_heads) + static_cast<size_t>(head)) * kDim;
  }

  // Q of the warp's rows from flat row `first` on. Each lane will read what it writes.
  DUNLIN_DEV static void StoreQueries(const PrefillArgs& args, const Work& work, int first, uint8_t* queries) {
    DUNLIN_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      for (int step = 0; step < kSteps; ++step) {
        uint32_t a[4];
        DUNLIN_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int flat = first + 16 * r + 8 * half + dev::Lane() / 4;
          dev::U4 q{0, 0, 0, 0};
          if (flat < work.end) {
            q = dev::LoadGlobal16(args.q + RowOffset(args, work, flat) + K::KeyDim(dev::Lane() % 4, step));
          }
          a[half] = dev::PackHalf2(dev::BitsToFloat(q.x), dev::BitsToFloat(q.y));
          a[2 + half] = dev::PackHalf2(dev::BitsToFloat(q.z), dev::BitsToFloat(q.w));
        }
        *reinterpret_cast<dev::U4*>(queries + ((r * kSteps + step) * 32 + dev::Lane()) * 16) = {a[0], a[1], a[2], a[3]};
      }
    }
  }

  // s = q . codes of K.
  DUNLIN_DEV static void MultiplyKeys(const uint8_t* queries, const uint8_t* stage, Scores& s) {
    for (int load = 0; load < K::kKeyLoads; ++load) {
      uint32_t k[kTiles][K::kKeySteps][4];
      DUNLIN_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) LoadKeys<kKey, kDim>(stage + tile * K::kBytes, load, k[tile]);
      DUNLIN_UNROLL
      for (int step = 0; step < K::kKeySteps; ++step) {
        DUNLIN_UNROLL
        for (int r = 0; r < kRowTiles; ++r) {
          const int at = r * kSteps + load * K::kKeySteps + step;
          const dev::U4 q = dev::LoadShared16(queries + (at * 32 + dev::Lane()) * 16);
          const uint32_t a[4] = {q.x, q.y, q.z, q.w};
          DUNLIN_UNROLL
          for (int j = 0; j < 2 * kTiles; ++j) {
            const uint32_t b[2] = {k[j / 2][step][j % 2], k[j / 2][step][j % 2 + 2]};
            dev::MmaF16(s[r][j], a, b);
          }
        }
      }
    }
  }

  // Rows from flat row `first` on, tokens from tile `tile` on.
  DUNLIN_DEV static void Mask(const PrefillArgs& args, const Work& work, int first, int tile, Scores& s) {
    int tokens[kTiles];
    DUNLIN_UNROLL
    for (int i = 0; i < kTiles; ++i) tokens[i] = work.Token(tile + i);
    DUNLIN_UNROLL
    for (int k = 0; k < 2 * kRowTiles; ++k) {
      const int position = work.Position(first + 8 * k + dev::Lane() / 4);
      Softmax::Mask(TokensSeen(args.pattern, position, position), tokens, k, s);
    }
  }

  DUNLIN_DEV static void MoveReferences(const uint8_t* stage, const Scores& s, State* state) {
    float shrink[2 * kRowTiles];
    Softmax::MoveReferences(stage + kValueScalesAt, s, &state->rows, shrink);
    DUNLIN_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      if (dev::Ballot(shrink[2 * r] != 1.0f || shrink[2 * r + 1] != 1.0f) == 0) continue;
      DUNLIN_UNROLL
      for (int n = 0; n < 2 * kSteps; ++n) {
        DUNLIN_UNROLL
        for (int c = 0; c < 4; ++c) state->o[r][n][c] *= shrink[2 * r + c / 2];
      }
    }
  }

  // o += weights * codes of V.
  DUNLIN_DEV static void MultiplyValues(const uint8_t* stage, const Scores& s, State* state) {
    DUNLIN_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      uint32_t p[kRowTiles][4];
      DUNLIN_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        DUNLIN_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float(&from)[4] = s[r][2 * tile + i / 2];
          p[r][i] = dev::PackHalf2(from[2 * (i % 2)], from[2 * (i % 2) + 1]);
        }
      }
      DUNLIN_UNROLL
      for (int load = 0; load < V::kValueLoads; ++load) {
        uint32_t v[V::kValueTiles][4];
        LoadValues<kValue, kDim>(stage + kValuesAt + tile * V::kBytes, load, v);
        DUNLIN_UNROLL
        for (int i = 0; i < 2 * V::kValueTiles; ++i) {
          const uint32_t b[2] = {v[i / 2][i % 2], v[i / 2][i % 2 + 2]};
          DUNLIN_UNROLL
          for (int r = 0; r < kRowTiles; ++r) dev::MmaF16(state->o[r][2 * load * V::kValueTiles + i], p[r], b);
        }
      }
    }
  }

  // out = o / sum. A lane's columns are runs of dims: four in formats of a byte, else two.
  DUNLIN_DEV static void StoreRows(const PrefillArgs& args, const Work& work, int first, const State& state) {
    const int t = dev::Lane() % 4;
    DUNLIN_UNROLL
    for (int k = 0; k < 2 * kRowTiles; ++k) {
      const int flat = first + 8 * k + dev::Lane() / 4;
      const float* sink = args.sink_logits;
      if (sink != nullptr) sink += dev::BlockY() * args.group + flat % args.group;
      const float factor = Softmax::Factor(state.rows, k, sink);
      if (flat >= work.end) continue;
      float* out = args.out + RowOffset(args, work, flat);
      DUNLIN_UNROLL
      for (int m = 0; m < kSteps; m += 2) {
        DUNLIN_UNROLL
        for (int e = 0; e < 2; ++e) {
          float x[4];
          DUNLIN_UNROLL
          for (int i = 0; i < 4; ++i) x[i] = state.o[k / 2][2 * m + i][k % 2 * 2 + e] * factor;
          if constexpr (kValue == KvFormat::kF16) {
            DUNLIN_UNROLL
            for (int i = 0; i < 4; ++i) out[V::ValueDim(m + i / 2, 2 * t + e + 8 * (i % 2))] = x[i];
          } else {
            *reinterpret_cast<dev::U4*>(out + V::ValueDim(m, 2 * t + e)) = {dev::FloatBits(x[0]), dev::FloatBits(x[1]),
                                                                            dev::FloatBits(x[2]), dev::FloatBits(x[3])};
          }
        }
      }
    }
  }

  DUNLIN_DEV static void Run(const PrefillArgs& args) {
    Work& work = *reinterpret_cast<Work*>(dev::Shared() + kWorkAt);
    if (dev::Warp() == 0) FindWork(args, &work);
    dev::SyncThreads();
    if (work.end == 0) return;
    uint8_t* const queries = dev::Shared() + dev::Warp() * kWarpQueryBytes;
    uint8_t* const stages = dev::Shared() + kWarps * kWarpQueryBytes;
    Copy(args, work, 0, FindPage(args, work, 0), stages);
    dev::CopyAsyncCommit();
    int32_t page = FindPage(args, work, 1);  // a stage early: it is there when its copies begin

    const int first = work.begin + dev::Warp() * kWarpRows;
    const bool any = first < work.end;
    const int first_position = work.Position(first), last_position = work.Position(first + kWarpRows - 1);
    State state = {};
    Softmax::Begin(&state.rows);
    if (any) StoreQueries(args, work, first, queries);
    for (int i = 0; i * kTiles < work.tiles.Count(); ++i) {
      dev::CopyAsyncWait<0>();
      dev::SyncThreads();  // this stage is there for all, and all have left the one that is filled next
      Copy(args, work, i + 1, page, stages + (i + 1) % kStages * kStageBytes);
      dev::CopyAsyncCommit();
      page = FindPage(args, work, i + 2);
      const int begin = work.Token(i * kTiles), end = work.Token(i * kTiles + kTiles - 1) + kTileTokens;
      if (!any || begin > last_position) continue;
      const uint8_t* stage = stages + i % kStages * kStageBytes;
      Scores s = {};
      MultiplyKeys(queries, stage, s);
      Softmax::Scale(stage + kKeyScalesAt, args.score_factor, args.cap, s);
      if (end > first_position + 1 || (args.pattern.window > 0 && begin + args.pattern.window <= last_position)) {
        Mask(args, work, first, i * kTiles, s);
      }
      MoveReferences(stage, s, &state);
      Softmax::Weigh(stage + kValueScalesAt, s, &state.rows);
      MultiplyValues(stage, s, &state);
    }
    if (any) StoreRows(args, work, first, state);
  }
};

template <KvFormat kKey, KvFormat kValue, int kDim>
DUNLIN_KERNEL((Prefill<kKey, kValue, kDim>::kThreads), (Prefill<kKey, kValue, kDim>::kBlocksPerSm))
void PrefillKernel(const PrefillArgs args) {
  Prefill<kKey, kValue, kDim>::Run(args);
}

template <KvFormat kKey, KvFormat kValue, int kDim>
void LaunchPrefillOf(Device* device, const PrefillBucket& bucket, const PrefillArgs& args) {
  using P = Prefill<kKey, kValue, kDim>;
  // Full blocks, and one that is not for every sequence that prefill has.
  const int sequences = bucket.max_rows / kPrefillRows;
  LaunchConfig config;
  config.grid_x =
      bucket.max_rows * args.group / P::kRows + (sequences < bucket.max_sequences ? sequences : bucket.max_sequences);
  config.grid_y = bucket.num_kv_heads;
  config.threads = P::kThreads;
  config.shared_bytes = P::kSharedBytes;
  DUNLIN_LAUNCH(device, config, (PrefillKernel<kKey, kValue, kDim>), args);
}

template <int kDim>
void LaunchPrefill(Device* device, const PrefillBucket& bucket, const PrefillArgs& args) {
  constexpr KvFormat kE4M3 = KvFormat::kE4M3, kInt8 = KvFormat::kInt8, kF16 = KvFormat::kF16;
  const auto is = [&](KvFormat k, KvFormat v) { return bucket.k_format == k && bucket.v_format == v; };
  if (is(kE4M3, kE4M3)) return LaunchPrefillOf<kE4M3, kE4M3, kDim>(device, bucket, args);
  if (is(kInt8, kInt8)) return LaunchPrefillOf<kInt8, kInt8, kDim>(device, bucket, args);
  if (is(kInt8, kE4M3)) return LaunchPrefillOf<kInt8, kE4M3, kDim>(device, bucket, args);
  CHECK(is(kF16, kF16)) << "formats of K and V that prefill attention cannot read";
  LaunchPrefillOf<kF16, kF16, kDim>(device, bucket, args);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_CUH_
