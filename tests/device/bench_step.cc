// A whole decode step of an 8B model in 4 bit at batch 1, as the runner issues it: the kernels of 32 layers and the
// logits in one graph. No rotation is needed: a step's weights are far larger than any L2.
#include <string>
#include <vector>

#include "kernels/cuda/append.h"
#include "kernels/cuda/prepare.h"
#include "kernels/cuda/products.h"
#include "tests/device/bench.h"
#include "tests/device/bench_cache.h"
#include "tests/device/bench_weights.h"

namespace dunlin::kernels::cuda::bench {
namespace {

constexpr int kLayers = 32, kHidden = 4096, kFfn = 14336, kQHeads = 32, kKvHeads = 8, kHeadDim = 128, kVocab = 128256;
constexpr int kQ = kQHeads * kHeadDim, kKv = kKvHeads * kHeadDim;
constexpr DType kType = DType::kQ4_0;
constexpr double kTarget = 0.75;

class Step {
 public:
  Step(Device* device, int context)
      : device_(device),
        arena_(device),
        shape_({.attention = {.num_q_heads = kQHeads, .num_kv_heads = kKvHeads, .head_dim = kHeadDim, .scale = 0.1f},
                .layers = kLayers,
                .context = context}),
        cache_(device, shape_),
        prepared_(device, 1, kFfn),
        x_(NormalFloats(device, kHidden)),
        norm_(NormalFloats(device, kHidden)),
        rope_(NormalFloats(device, static_cast<size_t>(context + 1) * kHeadDim / 2)),
        q_(device, kQ),
        k_(device, kKv),
        v_(device, kKv),
        attended_(device, kQ),
        ffn_(device, kFfn),
        logits_(device, kVocab),
        saturated_(device, 1),
        wq_(RandomMatrices(kType, kQ, kHidden, kLayers, &arena_)),
        wk_(RandomMatrices(kType, kKv, kHidden, kLayers, &arena_)),
        wv_(RandomMatrices(kType, kKv, kHidden, kLayers, &arena_)),
        wo_(RandomMatrices(kType, kHidden, kQ, kLayers, &arena_)),
        gate_(RandomMatrices(kType, kFfn, kHidden, kLayers, &arena_)),
        up_(RandomMatrices(kType, kFfn, kHidden, kLayers, &arena_)),
        down_(RandomMatrices(kType, kHidden, kFfn, kLayers, &arena_)),
        head_(RandomMatrices(kType, kVocab, kHidden, 1, &arena_)) {}

  bool ok() const {
    for (const DeviceBuffer<float>* b : {&x_, &norm_, &rope_, &q_, &k_, &v_, &attended_, &ffn_, &logits_}) {
      if (b->data() == nullptr) return false;
    }
    return cache_.ok() && prepared_.ok() && saturated_.data() != nullptr && !wq_.empty() && !wk_.empty() &&
           !wv_.empty() && !wo_.empty() && !gate_.empty() && !up_.empty() && !down_.empty() && !head_.empty();
  }
  // What the step must read.
  uint64_t bytes() const { return arena_.allocated_bytes() + kLayers * CacheBytes(shape_); }

  void Run() {
    PlanAttention(device_, cache_.limits(), cache_.batch(), cache_.pages(), cache_.workspace());
    for (int layer = 0; layer < kLayers; ++layer) RunLayer(layer);
    Multiply(device_, head_[0], Rounded(x_.data(), kHidden, norm_.data()), nullptr,
             {.out = logits_.data(), .ld = kVocab});
  }

 private:
  PreparedRows Rounded(const float* x, int cols, const float* norm) {
    const PreparedRows rows = prepared_.Codes(1, cols);
    Prepare(device_, {.x = x, .norm = norm, .eps = 1e-5f}, rows);
    return rows;
  }
  void RunLayer(int layer) {
    const auto l = static_cast<size_t>(layer);
    const ProductPart parts[] = {{&wq_[l], {.out = q_.data(), .ld = kQ}},
                                 {&wk_[l], {.out = k_.data(), .ld = kKv}},
                                 {&wv_[l], {.out = v_.data(), .ld = kKv}}};
    MultiplyParts(device_, parts, 3, Rounded(x_.data(), kHidden, norm_.data()), nullptr);
    RotateAndAppend(device_,
                    {.shape = shape_.attention,
                     .q = q_.data(),
                     .k = k_.data(),
                     .v = v_.data(),
                     .rope = {.cos = rope_.data(), .sin = rope_.data(), .dims = kHeadDim},
                     .rounding = {},
                     .layer = layer,
                     .saturated = saturated_.data()},
                    cache_.batch(), cache_.pages());
    DecodeAttention(device_,
                    {.shape = shape_.attention,
                     .layer = layer,
                     .q = q_.data(),
                     .out = attended_.data(),
                     .workspace = cache_.workspace()},
                    cache_.limits(), cache_.batch(), cache_.pages());
    const ProductOut add = {.out = x_.data(), .ld = kHidden, .add = true};
    Multiply(device_, wo_[l], Rounded(attended_.data(), kQ, nullptr), nullptr, add);
    MultiplyGated(device_, gate_[l], up_[l], FfnActivation::kSilu, Rounded(x_.data(), kHidden, norm_.data()), nullptr,
                  ffn_.data());
    Multiply(device_, down_[l], Rounded(ffn_.data(), kFfn, nullptr), nullptr, add);
  }

  Device* device_;
  WeightArena arena_;
  CacheShape shape_;
  FilledCache cache_;
  PreparedBuffer prepared_;
  DeviceBuffer<float> x_, norm_, rope_, q_, k_, v_, attended_, ffn_, logits_;
  DeviceBuffer<uint32_t> saturated_;
  std::vector<CudaMatrix> wq_, wk_, wv_, wo_, gate_, up_, down_, head_;
};

}  // namespace

void BenchStep(Bench* bench) {
  for (const int context : {1023, 8191}) {
    const std::string name = "decode step, 8B in 4 bit, 1 sequence of " + std::to_string(context + 1);
    if (!bench->Wants(name)) continue;
    Step step(bench->device(), context);
    if (!step.ok()) {
      bench->PrintSkipped(name, "not enough memory on the device");
      continue;
    }
    const double seconds = bench->Seconds(1, [&](int) { step.Run(); });
    bench->PrintBandwidth(name, static_cast<double>(step.bytes()), seconds, kTarget);
  }
}

}  // namespace dunlin::kernels::cuda::bench
