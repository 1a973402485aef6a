// The fused ops against the plain reference, allocation and the roofs.
#include "kernels/cpu/cpu_ops.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/roofline.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/op_cases.h"

namespace {
std::atomic<int64_t> g_allocations{0};
}

// Counts every allocation of this program. Not inlined: the compiler would see malloc and free where it wants a pair.
__attribute__((noinline)) void* operator new(size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  std::abort();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace dunlin::kernels::cpu {
namespace {

using testing::FillPages;
using testing::MakeBatch;
using testing::MakeRope;
using testing::PagedBatch;
using testing::Random;
using testing::RandomWeights;

constexpr int kHidden = 96, kFfn = 160, kVocab = 131, kQHeads = 4, kKvHeads = 2, kHeadDim = 32;

struct Layer {
  DType type;
  std::vector<uint8_t> q, k, v, o, gate, up, down, head;
  std::vector<float> norm, q_norm, k_norm, q_bias, k_bias, v_bias;
};

Layer MakeLayer(DType type, Random* random) {
  Layer l;
  l.type = type;
  const auto weights = [&](int rows, int cols) { return RandomWeights(type, int64_t{rows} * cols, random); };
  l.q = weights(kQHeads * kHeadDim, kHidden);
  l.k = weights(kKvHeads * kHeadDim, kHidden);
  l.v = weights(kKvHeads * kHeadDim, kHidden);
  l.o = weights(kHidden, kQHeads * kHeadDim);
  l.gate = weights(kFfn, kHidden);
  l.up = weights(kFfn, kHidden);
  l.down = weights(kHidden, kFfn);
  l.head = weights(kVocab, kHidden);
  l.norm = random->Normals(kHidden);
  l.q_norm = random->Normals(kHeadDim);
  l.k_norm = random->Normals(kHeadDim);
  l.q_bias = random->Normals(kQHeads * kHeadDim);
  l.k_bias = random->Normals(kKvHeads * kHeadDim);
  l.v_bias = random->Normals(kKvHeads * kHeadDim);
  return l;
}

template <typename Ops>
struct Packed {
  typename Ops::Matrix q, k, v, o, gate, up, down, head;
  Packed(Ops* ops, const Layer& l)
      : q(ops->Pack(l.type, kQHeads * kHeadDim, kHidden, l.q)),
        k(ops->Pack(l.type, kKvHeads * kHeadDim, kHidden, l.k)),
        v(ops->Pack(l.type, kKvHeads * kHeadDim, kHidden, l.v)),
        o(ops->Pack(l.type, kHidden, kQHeads * kHeadDim, l.o)),
        gate(ops->Pack(l.type, kFfn, kHidden, l.gate)),
        up(ops->Pack(l.type, kFfn, kHidden, l.up)),
        down(ops->Pack(l.type, kHidden, kFfn, l.down)),
        head(ops->Pack(l.type, kVocab, kHidden, l.head)) {}
};

AttentionShape Shape() { return {kQHeads, kKvHeads, kHeadDim, 0.2f, 0}; }
OpLimits Limits() {
  OpLimits limits;
  limits.max_rows = 40;
  limits.max_outputs = 40;
  limits.max_context = 512;
  limits.hidden = kHidden;
  limits.ffn = kFfn;
  limits.vocab = kVocab;
  limits.attention = Shape();
  return limits;
}

// Everything a layer computes from one batch.
struct Outputs {
  std::vector<float> embedded, q, k, v, attended, residual, ffn, logits;
  std::vector<std::vector<float>*> all() { return {&embedded, &q, &k, &v, &attended, &residual, &ffn, &logits}; }
};

constexpr KvFormat kFormat = KvFormat::kF32;  // so that K and V are compared as computed

template <typename Ops>
Outputs RunLayer(Ops* ops, const Packed<Ops>& w, const Layer& l, PagedBatch* b, const RopeTable& rope,
                 const std::vector<float>& x, FfnActivation activation) {
  const size_t rows = b->positions.size();
  Outputs o;
  o.embedded.resize(rows * kHidden);
  ops->Embed(w.head, b->view(), 1.5f, o.embedded.data());
  o.q.resize(rows * kQHeads * kHeadDim);
  AttentionInputArgs<typename Ops::Matrix> args;
  args.wq = &w.q;
  args.wk = &w.k;
  args.wv = &w.v;
  args.norm = l.norm.data();
  args.eps = 1e-5f;
  args.q_bias = l.q_bias.data();
  args.k_bias = l.k_bias.data();
  args.v_bias = l.v_bias.data();
  args.q_norm = l.q_norm.data();
  args.k_norm = l.k_norm.data();
  args.rope = &rope;
  int64_t saturated = 0;
  ops->AttentionInput(args, Shape(), b->view(), b->kv, x.data(), o.q.data(), &saturated);
  EXPECT_EQ(saturated, 0);
  for (size_t s = 0; s < b->slices.size(); ++s) {
    for (int i = 0; i < b->slices[s].num_rows; ++i) {
      const int token = b->slices[s].context_tokens + i;
      const uint8_t* page = b->kv.page(b->tables[s][static_cast<size_t>(token / b->layout.page_tokens)]);
      for (int head = 0; head < kKvHeads; ++head) {
        float values[kHeadDim];
        ReadKey(b->layout, page, 0, head, token % b->layout.page_tokens, values);
        o.k.insert(o.k.end(), values, values + kHeadDim);
        ReadValue(b->layout, page, 0, head, token % b->layout.page_tokens, values);
        o.v.insert(o.v.end(), values, values + kHeadDim);
      }
    }
  }
  o.attended.resize(o.q.size());
  ops->PagedAttention(Shape(), b->view(), b->kv, 0, o.q.data(), o.attended.data());
  o.residual = x;
  ops->ProjectAdd(w.o, static_cast<int>(rows), o.attended.data(), o.residual.data());
  o.ffn.resize(rows * kFfn);
  ops->GatedFfn(w.gate, w.up, l.norm.data(), 1e-5f, activation, static_cast<int>(rows), x.data(), o.ffn.data());
  const std::vector<int32_t> outputs = {0, static_cast<int32_t>(rows) - 1};
  o.logits.resize(outputs.size() * kVocab);
  ops->Logits(w.head, l.norm.data(), 1e-5f, outputs, x.data(), o.logits.data());
  return o;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - double{expected[i]}, 2);
    size += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(error / size);
}

PagedBatch Batch(uint64_t seed) {
  PagedBatch b =
      MakeBatch(PageLayout::Create(16, 1, kKvHeads, kHeadDim, kFormat, kFormat), {{20, 1}, {0, 9}, {15, 3}}, seed);
  for (size_t i = 0; i < b.token_ids.size(); ++i) b.token_ids[i] = static_cast<int32_t>(i * 7 % kVocab);
  FillPages(&b, 11);
  return b;
}

class CpuOpsTest : public ::testing::TestWithParam<DType> {};

TEST_P(CpuOpsTest, ALayerAgreesWithTheReference) {
  Random random(1);
  const Layer layer = MakeLayer(GetParam(), &random);
  for (RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    const auto rope = MakeRope(64, kHeadDim - 8, pairing);
    const auto activation = pairing == RopePairing::kAdjacent ? FfnActivation::kSilu : FfnActivation::kGeluTanh;
    PagedBatch b = Batch(1);
    const std::vector<float> x = random.Normals(b.positions.size() * kHidden);
    ReferenceOps reference;
    reference.Reserve(Limits());
    const Packed<ReferenceOps> reference_weights(&reference, layer);
    Outputs expected = RunLayer(&reference, reference_weights, layer, &b, rope.table, x, activation);
    for (Isa isa : SupportedIsas()) {
      CpuOps ops(2, isa);
      ops.Reserve(Limits());
      const Packed<CpuOps> weights(&ops, layer);
      PagedBatch mine = Batch(2);
      Outputs got = RunLayer(&ops, weights, layer, &mine, rope.table, x, activation);
      // Rounding activations to int8 adds noise of about 0.6 % of a product's standard deviation (a uniform error of
      // width amax / 127 per value, amax about 2.2 standard deviations); two products in a chain, and the products'
      // own cancellation, stay below four times that. Float weights have only f32 rounding.
      const double limit = IsQuantized(KindFor(GetParam())) ? 0.025 : 3e-6;
      const char* const names[] = {"embedded", "q", "k", "v", "attended", "residual", "ffn", "logits"};
      for (size_t i = 0; i < got.all().size(); ++i) {
        const double error = RelativeError(*got.all()[i], *expected.all()[i]);
        EXPECT_TRUE(error <= (i == 0 ? 1e-9 : limit)) << IsaName(isa) << ' ' << names[i] << ": " << error;
      }
    }
  }
}

TEST_P(CpuOpsTest, ALayerIsTheSameBitsOnEveryFamilyAndThreadCount) {
  Random random(2);
  const Layer layer = MakeLayer(GetParam(), &random);
  const auto rope = MakeRope(64, kHeadDim, RopePairing::kAdjacent);
  Outputs expected;
  std::vector<float> x;
  for (Isa isa : SupportedIsas()) {
    for (int threads : {1, 3}) {
      CpuOps ops(threads, isa);
      ops.Reserve(Limits());
      const Packed<CpuOps> weights(&ops, layer);
      PagedBatch b = Batch(static_cast<uint64_t>(threads));
      if (x.empty()) x = random.Normals(b.positions.size() * kHidden);
      Outputs got = RunLayer(&ops, weights, layer, &b, rope.table, x, FfnActivation::kSilu);
      if (expected.q.empty()) expected = got;
      for (size_t i = 0; i < got.all().size(); ++i) {
        const std::vector<float>& mine = *got.all()[i];
        EXPECT_EQ(std::memcmp(mine.data(), expected.all()[i]->data(), mine.size() * sizeof(float)), 0)
            << IsaName(isa) << " output " << i;
      }
    }
  }
}

TEST_P(CpuOpsTest, AFusedLayerIsTheFiveOpsBitForBit) {
  Random random(4);
  const Layer layer = MakeLayer(GetParam(), &random);
  const auto rope = MakeRope(512, kHeadDim, RopePairing::kAdjacent);
  // Rows that each thread prepares for itself, and rows that threads share; one context in several segments.
  const std::vector<std::vector<testing::SequenceShape>> batches = {{{20, 1}}, {{300, 1}}, {{20, 1}, {0, 9}, {15, 3}}};
  for (Isa isa : SupportedIsas()) {
    for (size_t i = 0; i < batches.size(); ++i) {
      SCOPED_TRACE(IsaName(isa) + std::string(" batch ") + std::to_string(i));
      CpuOps ops(2, isa);
      ops.Reserve(Limits());
      const Packed<CpuOps> w(&ops, layer);
      LayerArgs<CpuMatrix> args;
      args.input.wq = &w.q;
      args.input.wk = &w.k;
      args.input.wv = &w.v;
      args.input.norm = layer.norm.data();
      args.input.eps = 1e-5f;
      args.input.q_bias = layer.q_bias.data();
      args.input.k_norm = layer.k_norm.data();
      args.input.rope = &rope.table;
      args.wo = &w.o;
      args.ffn_norm = layer.norm.data();
      args.w_gate = &w.gate;
      args.w_up = &w.up;
      args.w_down = &w.down;
      std::vector<float> results[2];
      Traffic traffic[2];
      for (int fused : {0, 1}) {
        PagedBatch b =
            MakeBatch(PageLayout::Create(16, 1, kKvHeads, kHeadDim, KvFormat::kE4M3, KvFormat::kInt8), batches[i], 5);
        FillPages(&b, 11);
        const size_t rows = b.positions.size();
        Random inputs(6);
        results[fused] = inputs.Normals(rows * kHidden);
        std::vector<float> q(rows * kQHeads * kHeadDim), attended(q.size()), ffn(rows * kFfn);
        const Activations act{results[fused].data(), q.data(), attended.data(), ffn.data()};
        int64_t saturated = 0;
        traffic[fused] = fused == 1 ? ops.Layer(args, Shape(), b.view(), b.kv, act, &saturated)
                                    : ComposeLayer(ops, args, Shape(), b.view(), b.kv, act, &saturated);
        EXPECT_EQ(saturated, 0);
      }
      ASSERT_EQ(results[0].size(), results[1].size());
      EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), results[0].size() * sizeof(float)), 0);
      EXPECT_NE(results[0][0], Random(6).Normals(1)[0]) << "the layer changed nothing";
      EXPECT_EQ(traffic[0].weight_bytes, traffic[1].weight_bytes);
      EXPECT_EQ(traffic[0].kv_read_bytes, traffic[1].kv_read_bytes);
      EXPECT_EQ(traffic[0].kv_write_bytes, traffic[1].kv_write_bytes);
      EXPECT_EQ(traffic[0].activation_bytes, traffic[1].activation_bytes);
    }
  }
}

TEST_P(CpuOpsTest, NothingAllocatesAfterReserve) {
  Random random(3);
  const Layer layer = MakeLayer(GetParam(), &random);
  const auto rope = MakeRope(64, kHeadDim, RopePairing::kHalves);
  CpuOps ops(2, SupportedIsas().back());
  const Packed<CpuOps> w(&ops, layer);
  ops.Reserve(Limits());
  PagedBatch b = Batch(1);
  const size_t rows = b.positions.size();
  std::vector<float> x(rows * kHidden), q(rows * kQHeads * kHeadDim), out(q.size()), ffn(rows * kFfn);
  std::vector<float> logits(2 * kVocab);
  const std::vector<int32_t> outputs = {0, 5};
  std::vector<SampleParams> params(2);
  params[1].temperature = 0.0f;
  for (SampleParams& p : params) p.num_top = 5;
  std::vector<SampleResult> results(2);
  for (SampleResult& r : results) {
    r.top_ids.reserve(20);
    r.top_logprobs.reserve(20);
  }
  AttentionInputArgs<CpuMatrix> args;
  args.wq = &w.q;
  args.wk = &w.k;
  args.wv = &w.v;
  args.norm = layer.norm.data();
  args.eps = 1e-5f;
  args.rope = &rope.table;
  const BatchView view = b.view();
  int64_t saturated = 0;
  const int64_t before = g_allocations.load();
  for (int step = 0; step < 3; ++step) {
    ops.Embed(w.head, view, 1.0f, x.data());
    ops.AttentionInput(args, Shape(), view, b.kv, x.data(), q.data(), &saturated);
    ops.PagedAttention(Shape(), view, b.kv, 0, q.data(), out.data());
    ops.ProjectAdd(w.o, static_cast<int>(rows), out.data(), x.data());
    ops.GatedFfn(w.gate, w.up, layer.norm.data(), 1e-5f, FfnActivation::kSilu, static_cast<int>(rows), x.data(),
                 ffn.data());
    ops.ProjectAdd(w.down, static_cast<int>(rows), ffn.data(), x.data());
    ops.Logits(w.head, layer.norm.data(), 1e-5f, outputs, x.data(), logits.data());
    ops.Sample(logits.data(), kVocab, params, results);
  }
  EXPECT_EQ(g_allocations.load() - before, 0);
}

INSTANTIATE_TEST_SUITE_P(Types, CpuOpsTest,
                         // Every type whose blocks fit this width; the wider ones are multiply_test's.
                         ::testing::Values(DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                           DType::kIQ4_NL, DType::kInt2, DType::kInt3, DType::kInt4, DType::kInt8,
                                           DType::kF16, DType::kBF16, DType::kF32),
                         [](const ::testing::TestParamInfo<DType>& i) { return GetDTypeInfo(i.param).name; });

TEST(CpuOpsTest, TrafficIsPackedWeightsPagesAndBorders) {
  Random random(4);
  const Layer layer = MakeLayer(DType::kQ4_1, &random);
  CpuOps ops(1, Isa::kScalar);
  ops.Reserve(Limits());
  const Packed<CpuOps> w(&ops, layer);
  // 20 bytes per 32 weights; rows are whole groups of eight here.
  EXPECT_EQ(w.down.packed_bytes(), uint64_t{kHidden} * kFfn / 32 * 20);
  std::vector<float> in(3 * kFfn), residual(3 * kHidden);
  const Traffic t = ops.ProjectAdd(w.down, 3, in.data(), residual.data());
  EXPECT_EQ(t.weight_bytes, w.down.packed_bytes());
  EXPECT_EQ(t.activation_bytes, 3u * (kFfn + 2 * kHidden) * 4u);
  EXPECT_EQ(t.kv_read_bytes, 0u);
  PagedBatch b = Batch(1);
  std::vector<float> q(b.positions.size() * kQHeads * kHeadDim), out(q.size());
  const Traffic a = ops.PagedAttention(Shape(), b.view(), b.kv, 0, q.data(), out.data());
  EXPECT_EQ(a.kv_read_bytes, (21u + 9u + 18u) * b.layout.TokenLayerBytes());
}

TEST(RooflineTest, MeasuresSomethingPlausible) {
  ThreadPool pool(1);
  const KernelTable& kernels = GetKernels(SupportedIsas().back());
  // From an emulated processor on a busy machine to the largest server.
  const double bandwidth = MeasureReadBandwidth(kernels, &pool, size_t{32} << 20);
  EXPECT_TRUE(bandwidth > 1e6 && bandwidth < 1e13) << bandwidth;
  const std::vector<uint8_t> weights(3'000'000, 1);  // no whole number of chunks
  const double of_weights = MeasureReadBandwidth(kernels, &pool, std::span(weights));
  EXPECT_TRUE(of_weights > 1e6 && of_weights < 1e13) << of_weights;
  const double peak = MeasureInt8Peak(kernels, &pool);
  EXPECT_TRUE(peak > 1e6 && peak < 1e14) << peak;
  const double float_peak = MeasureFloatPeak(kernels, &pool);
  EXPECT_TRUE(float_peak > 1e6 && float_peak < 1e13) << float_peak;
}

}  // namespace
}  // namespace dunlin::kernels::cpu
