// Attention over a cache of several layers; each set of the rotation is a layer of its own.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "tests/device/bench.h"

namespace dunlin::kernels::cuda::bench {
namespace {

constexpr int kPageTokens = 16;

struct Case {
  const char* name;
  int q_heads, kv_heads, head_dim;
  KvFormat k_format, v_format;
  int sequences, context, rows;  // of each sequence
  double target;
};

// A page whose every code is a finite value and whose scales are near one.
std::vector<uint8_t> RandomPage(const PageLayout& layout) {
  std::mt19937 random(7);
  std::vector<uint8_t> page(layout.page_bytes);
  std::vector<float> k(static_cast<size_t>(layout.num_kv_heads) * static_cast<size_t>(layout.head_dim));
  std::vector<float> v(k.size());
  std::normal_distribution<float> normal;
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    for (int slot = 0; slot < layout.page_tokens; ++slot) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      AppendToken(layout, page.data(), layer, slot, k.data(), v.data());
    }
  }
  return page;
}

template <typename T>
DeviceBuffer<T> Upload(Device* device, const std::vector<T>& values) {
  DeviceBuffer<T> buffer(device, values.size());
  if (buffer.data() != nullptr) device->CopyToDevice(buffer.data(), values.data(), values.size() * sizeof(T));
  device->Synchronize();
  return buffer;
}

// Pages, tables and rows of a case on the device.
class Setup {
 public:
  Setup(Device* device, const Case& c, int layers)
      : device_(device),
        layout_(PageLayout::Create(kPageTokens, layers, c.kv_heads, c.head_dim, c.k_format, c.v_format, false,
                                   SlabOrder::kDevice)) {
    const int total = c.context + c.rows;
    const int pages_each = (total + kPageTokens - 1) / kPageTokens;
    const int num_rows = c.sequences * c.rows;
    pages_ = DeviceBuffer<uint8_t>(
        device, layout_.page_bytes * static_cast<size_t>(c.sequences) * static_cast<size_t>(pages_each));
    shape_ = {.num_q_heads = c.q_heads, .num_kv_heads = c.kv_heads, .head_dim = c.head_dim, .scale = 0.125f};
    limits_ = {.max_rows = num_rows, .max_context = total, .shape = shape_};
    workspace_ = DeviceBuffer<uint8_t>(device, AttentionWorkspaceBytes(*device, limits_));
    const size_t width = static_cast<size_t>(c.q_heads) * static_cast<size_t>(c.head_dim);
    q_ = DeviceBuffer<float>(device, static_cast<size_t>(num_rows) * width);
    out_ = DeviceBuffer<float>(device, static_cast<size_t>(num_rows) * width);
    if (!ok()) return;
    FillPages(c.sequences * pages_each);
    FillBatch(c, pages_each);
    std::vector<float> q(static_cast<size_t>(num_rows) * width);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (float& x : q) x = normal(random);
    device->CopyToDevice(q_.data(), q.data(), q.size() * sizeof(float));
    device->Synchronize();
    PlanAttention(device_, limits_, batch_, device_pages(), workspace_.data());
  }
  bool ok() const { return pages_.data() && workspace_.data() && q_.data() && out_.data(); }
  const PageLayout& layout() const { return layout_; }
  void Run(bool decode, int layer) {
    const AttentionCallArgs args{
        .shape = shape_, .layer = layer, .q = q_.data(), .out = out_.data(), .workspace = workspace_.data()};
    if (decode) {
      DecodeAttention(device_, args, limits_, batch_, device_pages());
    } else {
      PrefillAttention(device_, args, batch_, device_pages());
    }
  }

 private:
  DevicePages device_pages() const { return {.base = pages_.data(), .layout = layout_}; }
  void FillPages(int num_pages) {
    const std::vector<uint8_t> page = RandomPage(layout_);
    device_->CopyToDevice(pages_.data(), page.data(), page.size());
    for (int i = 1; i < num_pages; ++i) {
      device_->CopyOnDevice(pages_.data() + layout_.page_bytes * static_cast<size_t>(i), pages_.data(),
                            layout_.page_bytes);
    }
    device_->Synchronize();
  }
  void FillBatch(const Case& c, int pages_each) {
    const int num_rows = c.sequences * c.rows;
    std::vector<int32_t> pages(static_cast<size_t>(c.sequences) * static_cast<size_t>(pages_each));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), std::mt19937(11));
    std::vector<DeviceSequence> sequences;
    std::vector<int32_t> positions, row_sequence;
    for (int s = 0; s < c.sequences; ++s) {
      sequences.push_back({s * c.rows, c.rows, c.context, s * pages_each});
      for (int r = 0; r < c.rows; ++r) {
        positions.push_back(c.context + r);
        row_sequence.push_back(s);
      }
    }
    page_ids_ = Upload(device_, pages);
    sequences_ = Upload(device_, sequences);
    positions_ = Upload(device_, positions);
    row_sequence_ = Upload(device_, row_sequence);
    counts_ = Upload(device_, std::vector<BatchCounts>{{num_rows, c.sequences, 0, 0}});
    batch_ = {.max_rows = num_rows,
              .max_sequences = c.sequences,
              .counts = counts_.data(),
              .positions = positions_.data(),
              .row_sequence = row_sequence_.data(),
              .sequences = sequences_.data(),
              .pages = page_ids_.data()};
  }

  Device* device_;
  PageLayout layout_;
  AttentionShape shape_;
  AttentionLimits limits_;
  DeviceBatch batch_;
  DeviceBuffer<uint8_t> pages_, workspace_;
  DeviceBuffer<float> q_, out_;
  DeviceBuffer<int32_t> page_ids_, positions_, row_sequence_;
  DeviceBuffer<DeviceSequence> sequences_;
  DeviceBuffer<BatchCounts> counts_;
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
  const size_t tokens = static_cast<size_t>(c.sequences) * static_cast<size_t>(c.context + c.rows);
  const size_t bytes =
      PageLayout::Create(kPageTokens, 1, c.kv_heads, c.head_dim, c.k_format, c.v_format, false, SlabOrder::kDevice)
          .TokenLayerBytes() *
      tokens;
  const int layers = decode ? bench->Sets(bytes) : 4;
  Setup setup(bench->device(), c, layers);
  if (!setup.ok()) return bench->PrintSkipped(name, "not enough memory on the device");
  const double seconds = bench->Seconds(layers, [&](int layer) { setup.Run(decode, layer); });
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
