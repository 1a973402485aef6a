// Attention over a cache of several layers; each set of the rotation is a layer of its own.
#include <string>

#include "tests/device/bench.h"
#include "tests/device/bench_cache.h"

namespace dunlin::kernels::cuda::bench {
namespace {

struct Case {
  const char* name;
  int q_heads, kv_heads, head_dim;
  KvFormat k_format, v_format;
  int sequences, context, rows;  // of each sequence
  double target;
};
constexpr KvFormat kE4M3 = KvFormat::kE4M3;
constexpr Case kDecode[] = {
    {"decode, 8B's heads, 8 x 8k, FP8", 32, 8, 128, kE4M3, kE4M3, 8, 8191, 1, 0.85},
    {"decode, 8B's heads, 64 x 1k, FP8", 32, 8, 128, kE4M3, kE4M3, 64, 1023, 1, 0.85},
    {"decode, 8B's heads, 8 x 8k, INT8 and FP8", 32, 8, 128, KvFormat::kInt8, kE4M3, 8, 8191, 1, 0.85},
    {"decode, 8B's heads, 4 x 8k, F16", 32, 8, 128, KvFormat::kF16, KvFormat::kF16, 4, 8191, 1, 0.85},
    {"decode, heads of 64 in groups of 3, 32 x 8k, FP8", 9, 3, 64, kE4M3, kE4M3, 32, 8191, 1, 0.85},
    {"decode, heads of 256, 4 x 8k, FP8", 16, 8, 256, kE4M3, kE4M3, 4, 8191, 1, 0.85},
    {"decode, 8B's heads, 1 x 32k, FP8", 32, 8, 128, kE4M3, kE4M3, 1, 32767, 1, 0},
    {"decode, 8B's heads, 1 x 1k, FP8", 32, 8, 128, kE4M3, kE4M3, 1, 1023, 1, 0},
};
constexpr Case kPrefill[] = {
    {"prefill, 8B's heads, 4096 rows", 32, 8, 128, kE4M3, kE4M3, 1, 0, 4096, 0},
    {"prefill, 8B's heads, 512 rows after 8k", 32, 8, 128, kE4M3, kE4M3, 1, 8192, 512, 0},
    {"prefill, heads of 64 in groups of 3, 2048 rows", 9, 3, 64, kE4M3, kE4M3, 1, 0, 2048, 0},
};

void RunCase(Bench* bench, const Case& c, bool decode) {
  const std::string name = std::string("attention ") + c.name;
  if (!bench->Wants(name)) return;
  Device* device = bench->device();
  CacheShape shape = {
      .attention = {.num_q_heads = c.q_heads, .num_kv_heads = c.kv_heads, .head_dim = c.head_dim, .scale = 0.1f},
      .k_format = c.k_format,
      .v_format = c.v_format,
      .sequences = c.sequences,
      .context = c.context,
      .rows = c.rows};
  const uint64_t bytes = CacheBytes(shape);
  shape.layers = decode ? bench->Sets(bytes) : 4;
  const FilledCache cache(device, shape);
  const size_t values = static_cast<size_t>(c.sequences) * static_cast<size_t>(c.rows) *
                        static_cast<size_t>(c.q_heads) * static_cast<size_t>(c.head_dim);
  const DeviceBuffer<float> q = NormalFloats(device, values), out(device, values);
  if (!cache.ok() || q.data() == nullptr || out.data() == nullptr) {
    return bench->PrintSkipped(name, "not enough memory on the device");
  }
  const double seconds = bench->Seconds(shape.layers, [&](int layer) {
    const AttentionCallArgs args{
        .shape = shape.attention, .layer = layer, .q = q.data(), .out = out.data(), .workspace = cache.workspace()};
    if (decode) {
      DecodeAttention(device, args, cache.limits(), cache.batch(), cache.pages());
    } else {
      PrefillAttention(device, args, cache.batch(), cache.pages());
    }
  });
  if (decode) return bench->PrintBandwidth(name, static_cast<double>(bytes), seconds, c.target);
  // Two products of head_dim per visible pair of positions and q head, two operations each.
  const double rows = c.rows;
  const double pairs = c.sequences * (rows * c.context + rows * (rows + 1) / 2);
  bench->PrintCompute(name, 4.0 * c.head_dim * c.q_heads * pairs, seconds);
}

}  // namespace

void BenchAttention(Bench* bench) {
  for (const Case& c : kDecode) RunCase(bench, c, true);
  for (const Case& c : kPrefill) RunCase(bench, c, false);
}

}  // namespace dunlin::kernels::cuda::bench
