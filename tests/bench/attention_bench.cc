// What paged attention costs by itself, without a model: time per layer and call for decode steps and prompt chunks in
// the default model's shape, over scattered pages, layer after layer as a step runs them.
//   attention-bench [threads] [isa or ""] [fp8 | int8 | int8_fp8 | f16] [only cases whose name contains this]
// Prints one line per case: the median and the least time of a call, KV bytes and multiply-adds per second at the
// median; then what writing a token of one layer costs.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr int kLayers = 30;
constexpr int kMaxRows = 256;
constexpr AttentionShape kShape{9, 3, 64, 0.125f};

struct Case {
  const char* name;
  int sequences;
  int rows;  // of each
  int context;
};
constexpr Case kCases[] = {
    {"decode b1 ctx 64", 1, 1, 64},     {"decode b1 ctx 200", 1, 1, 200},     {"decode b1 ctx 512", 1, 1, 512},
    {"decode b1 ctx 1024", 1, 1, 1024}, {"decode b1 ctx 4096", 1, 1, 4096},   {"decode b8 ctx 128", 8, 1, 128},
    {"decode b8 ctx 1024", 8, 1, 1024}, {"decode b32 ctx 128", 32, 1, 128},   {"decode b32 ctx 1024", 32, 1, 1024},
    {"prefill 256 ctx 0", 1, 256, 0},   {"prefill 256 ctx 256", 1, 256, 256}, {"prefill 256 ctx 768", 1, 256, 768},
    {"prefill 8 x 32 ctx 0", 8, 32, 0}, {"verify 4 ctx 1024", 1, 4, 1024},
};

// With one thread: the time that it ran, which busy neighbours disturb less.
double Seconds(bool one_thread) {
  timespec t;
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Pages in one mapping, filled with codes of ordinary size.
struct Pages {
  Pages(const PageLayout& layout, int32_t count) {
    bytes = layout.page_bytes * static_cast<size_t>(count);
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    madvise(base, bytes, MADV_HUGEPAGE);
    view = {static_cast<uint8_t*>(base), layout, count};
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const auto width = static_cast<size_t>(layout.num_kv_heads * layout.head_dim);
    std::vector<float> k(width), v(width);
    for (int slot = 0; slot < layout.page_tokens; ++slot) {
      for (int layer = 0; layer < layout.num_layers; ++layer) {
        for (float& x : k) x = normal(random);
        for (float& x : v) x = normal(random);
        AppendToken(layout, view.page(0), layer, slot, k.data(), v.data());
      }
    }
    for (int32_t p = 1; p < count; ++p) std::memcpy(view.page(p), view.page(0), layout.page_bytes);
  }
  ~Pages() { munmap(view.base, bytes); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  PagedKvView view;
  size_t bytes = 0;
};

void Measure(const Case& c, const Pages& pages, CpuOps* ops) {
  const int page_tokens = pages.view.layout.page_tokens;
  const int per_sequence = (c.context + c.rows + page_tokens - 1) / page_tokens;
  CHECK_LE(c.sequences * per_sequence, pages.view.num_pages);
  std::vector<int32_t> ids(static_cast<size_t>(pages.view.num_pages));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(2));
  std::vector<SequenceSlice> slices;
  std::vector<int32_t> positions;
  for (int s = 0; s < c.sequences; ++s) {
    slices.push_back({s * c.rows, c.rows, c.context, ids.data() + s * per_sequence});
    for (int r = 0; r < c.rows; ++r) positions.push_back(c.context + r);
  }
  const std::vector<int32_t> tokens(positions.size());
  const BatchView batch{static_cast<int32_t>(positions.size()), tokens.data(), positions.data(), slices};
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> q(positions.size() * 576), out(q.size());
  for (float& x : q) x = normal(random);
  double macs = 0.0;
  for (const int32_t p : positions) macs += 2.0 * 64 * kShape.num_q_heads * (p + 1);
  const bool one = ops->num_threads() == 1;
  std::vector<double> times;
  uint64_t bytes = 0;
  // Each step goes over all layers. The first one warms up.
  for (double spent = 0.0; spent < 0.3 || times.size() < 4; spent += times.back() * kLayers) {
    const double start = Seconds(one);
    for (int layer = 0; layer < kLayers; ++layer) {
      bytes = ops->PagedAttention(kShape, batch, pages.view, layer, q.data(), out.data()).kv_read_bytes;
    }
    times.push_back((Seconds(one) - start) / kLayers);
  }
  times.erase(times.begin());
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("%-22s %10.2f us  least %10.2f us %8.1f GB/s %8.1f GMAC/s\n", c.name, median * 1e6, times[0] * 1e6,
              static_cast<double>(bytes) / median * 1e-9, macs / median * 1e-9);
}

void MeasureAppend(const Pages& pages, const CpuOps& ops) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> k(192), v(192), centre(192), feedback(3 * KvFeedbackValues(64));
  std::vector<uint16_t> order(192);
  for (float& x : k) x = normal(random);
  for (float& x : v) x = normal(random);
  for (float& x : feedback) x = 0.01f * normal(random);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint16_t>(i * 7 % 64);
  const KvVectorRounding compensated{centre.data(), order.data(), feedback.data()};
  for (const bool rounding : {false, true}) {
    for (const int together : {1, 8, 16}) {
      const KvRounding how = rounding ? KvRounding{compensated, compensated} : KvRounding{};
      constexpr int kTokens = 512;
      double best = 1e9;
      for (int round = 0; round < 20; ++round) {
        const double start = Seconds(true);
        for (int t = 0; t < kTokens; t += together) {
          TokenSlot tokens[16];
          for (int i = 0; i < together; ++i) tokens[i] = {pages.view.page(t / 16), (t + i) % 16, k.data(), v.data()};
          ops.kernels().append_tokens(pages.view.layout, 5, tokens, together, how);
        }
        best = std::min(best, Seconds(true) - start);
      }
      std::printf("append %2d, %-14s %10.3f us per token and layer\n", together, rounding ? "compensated" : "nearest",
                  best * 1e6 / kTokens);
    }
  }
}

int Main(int threads, const char* isa_name, const std::string& format, const std::string& only) {
  std::string error;
  const std::optional<Isa> isa = SelectIsa(isa_name, &error);
  CHECK(isa.has_value()) << error;
  const KvFormat v_format = format == "f16" ? KvFormat::kF16 : format == "int8" ? KvFormat::kInt8 : KvFormat::kE4M3;
  const KvFormat k_format = format == "int8_fp8" ? KvFormat::kInt8 : v_format;
  const Pages pages(PageLayout::Create(16, kLayers, kShape.num_kv_heads, kShape.head_dim, k_format, v_format), 2100);
  CpuOps ops(threads, *isa);
  OpLimits limits;
  limits.max_rows = kMaxRows;
  limits.max_context = 8192;
  limits.hidden = 576;
  limits.vocab = 1;
  limits.attention = kShape;
  ops.Reserve(limits);
  std::printf("%s, %d threads, %s\n", ops.isa_name(), threads, format.c_str());
  for (const Case& c : kCases) {
    if (std::string(c.name).find(only) != std::string::npos) Measure(c, pages, &ops);
  }
  MeasureAppend(pages, ops);
  return 0;
}

}  // namespace
}  // namespace dunlin::kernels::cpu

int main(int argc, char** argv) {
  return dunlin::kernels::cpu::Main(argc > 1 ? std::atoi(argv[1]) : 2, argc > 2 ? argv[2] : "",
                                    argc > 3 ? argv[3] : "fp8", argc > 4 ? argv[4] : "");
}
