// Prefill attention against its definition in double precision on what the pages store, and what must not change a bit.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention_mask.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/batch.h"
#include "kernels/paged_kv.h"
#include "kernels/quant_format.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::FillPages;
using kernels::testing::MakeBatch;
using kernels::testing::PagedBatch;
using kernels::testing::Random;
using kernels::testing::SequenceShape;

constexpr KvFormat kE4M3 = KvFormat::kE4M3, kInt8 = KvFormat::kInt8, kF16 = KvFormat::kF16;
constexpr int kLayers = 2, kLayer = 1;
// p is rounded to f16 by at most u = 2^-11 of itself, each on its own: the squared error of sum p v is at most u^2
// times the sum of p^2 v^2, which is what (sum p v)^2 is on average over the values' signs. f32 sums add about 2^-22.
constexpr double kTolerance = 5e-4;

struct PrefillCase {
  const char* name;
  KvFormat k_format;
  KvFormat v_format;
  int page_tokens;
  int q_heads;
  int kv_heads;
  int head_dim;
  int window = 0;
  int sinks = 0;
  float soft_cap = 0.0f;
  bool sink_logits = false;
  std::vector<SequenceShape> sequences = {{257, 33}, {5, 3}, {0, 8}, {17, 31}, {33, 1}, {1, 65}, {33, 9}};

  AttentionShape shape() const {
    return {q_heads, kv_heads, head_dim, 1.0f / std::sqrt(static_cast<float>(head_dim)), window, sinks};
  }
  PageLayout layout() const {
    return PageLayout::Create(page_tokens, kLayers, kv_heads, head_dim, k_format, v_format, false, SlabOrder::kDevice);
  }
  size_t width() const { return static_cast<size_t>(q_heads) * static_cast<size_t>(head_dim); }
};

// Logits of the sinks: small, large and far outside.
std::vector<float> SinkLogits(const PrefillCase& c) {
  std::vector<float> logits;
  for (int h = 0; h < c.q_heads; ++h) logits.push_back(h % 3 == 0 ? 1.5f : h % 3 == 1 ? 6.0f : -200.0f);
  return logits;
}

// One row and q head.
void Attend(const PrefillCase& c, const PagedBatch& b, const SequenceSlice& s, int row, int head, const float* q,
            double* out) {
  const int position = s.context_tokens + row, kv_head = head / (c.q_heads / c.kv_heads);
  const auto dim = static_cast<size_t>(c.head_dim);
  const SeenRuns seen = TokensSeen(c.shape().pattern(), position, position);
  std::vector<float> k(dim), v(dim);
  std::vector<double> logits, sum(dim, 0.0);
  std::vector<std::vector<float>> values;
  for (int token = 0; token <= position; ++token) {
    if (!seen.Contains(token)) continue;
    const uint8_t* page = b.kv.page(s.pages[token / c.page_tokens]);
    ReadKey(b.layout, page, kLayer, kv_head, token % c.page_tokens, k.data());
    ReadValue(b.layout, page, kLayer, kv_head, token % c.page_tokens, v.data());
    double x = 0;
    for (size_t d = 0; d < dim; ++d) x += static_cast<double>(HalfToFloat(FloatToHalf(q[d]))) * k[d];
    x *= static_cast<double>(c.shape().scale);
    if (c.soft_cap > 0) x = c.soft_cap * std::tanh(x / c.soft_cap);
    logits.push_back(x);
    values.push_back(v);
  }
  double total = 0, largest = *std::max_element(logits.begin(), logits.end());
  if (c.sink_logits) {
    const double sink = static_cast<double>(SinkLogits(c)[static_cast<size_t>(head)]);
    largest = std::max(largest, sink);
    total = std::exp(sink - largest);
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] - largest);
    total += p;
    for (size_t d = 0; d < dim; ++d) sum[d] += p * static_cast<double>(values[i][d]);
  }
  for (size_t d = 0; d < dim; ++d) out[d] = sum[d] / total;
}

class PrefillTest : public testing::DeviceTest {
 protected:
  static constexpr uint8_t kUntouched = 0x5A;

  static std::vector<float> Queries(const PrefillCase& c, const PagedBatch& b, uint64_t seed) {
    Random random(seed);
    return random.Normals(b.positions.size() * c.width(), 1.5f);
  }

  // All of `out`, padding rows too.
  std::vector<float> Run(const PrefillCase& c, const PagedBatch& b, const std::vector<float>& queries) {
    constexpr int kPadding = 5;
    const auto rows = static_cast<int32_t>(b.positions.size());
    const auto count = static_cast<int32_t>(b.slices.size());
    std::vector<DeviceSequence> sequences;
    std::vector<int32_t> tables;
    for (size_t i = 0; i < b.slices.size(); ++i) {
      const SequenceSlice& s = b.slices[i];
      sequences.push_back({s.first_row, s.num_rows, s.context_tokens, static_cast<int32_t>(tables.size())});
      tables.insert(tables.end(), b.tables[i].begin(), b.tables[i].end());
    }
    sequences.resize(sequences.size() + 3, {1 << 20, 1 << 20, 1 << 20, 1 << 20});  // nobody's
    std::vector<float> q = queries;
    q.resize(q.size() + kPadding * c.width(), std::numeric_limits<float>::quiet_NaN());
    const auto memory = Upload(b.memory);
    const auto device_counts = Upload(std::vector<BatchCounts>{{rows, count, 0, 0}});
    const auto device_sequences = Upload(sequences);
    const auto device_tables = Upload(tables);
    const auto device_q = Upload(q);
    const auto device_sinks = Upload(SinkLogits(c));
    const auto out = Room<float>(q.size());
    device_->Fill(out.data(), kUntouched, out.bytes());
    DeviceBatch batch;
    batch.max_rows = rows + kPadding;
    batch.max_sequences = count + 3;
    batch.counts = device_counts.data();
    batch.sequences = device_sequences.data();
    batch.pages = device_tables.data();
    AttentionCallArgs args;
    args.shape = c.shape();
    args.soft_cap = c.soft_cap;
    args.sink_logits = c.sink_logits ? device_sinks.data() : nullptr;
    args.layer = kLayer;
    args.q = device_q.data();
    args.out = out.data();
    PrefillAttention(device_, args, batch, {memory.data(), b.layout});
    return Download(out);
  }

  // Every row of every sequence of kPrefillRows rows; the others and the padding as they were.
  void Check(const PrefillCase& c, const PagedBatch& b, const std::vector<float>& q, const std::vector<float>& got) {
    const auto dim = static_cast<size_t>(c.head_dim);
    std::vector<bool> written(got.size(), false);
    for (const SequenceSlice& s : b.slices) {
      if (s.num_rows < kPrefillRows) continue;
      std::vector<double> want(static_cast<size_t>(s.num_rows) * c.width());
      const size_t first = static_cast<size_t>(s.first_row) * c.width();
      for (int row = 0; row < s.num_rows; ++row) {
        for (int head = 0; head < c.q_heads; ++head) {
          const size_t at = static_cast<size_t>(row) * c.width() + static_cast<size_t>(head) * dim;
          Attend(c, b, s, row, head, q.data() + first + at, want.data() + at);
        }
      }
      const auto begin = got.begin() + static_cast<std::ptrdiff_t>(first);
      const std::vector<float> rows(begin, begin + static_cast<std::ptrdiff_t>(want.size()));
      const double error = testing::RelativeL2(rows, want);
      EXPECT_TRUE(error <= kTolerance) << c.name << ", context " << s.context_tokens << ", rows " << s.num_rows << ": "
                                       << error;
      worst_ = std::max(worst_, error);
      std::fill(written.begin() + static_cast<std::ptrdiff_t>(first),
                written.begin() + static_cast<std::ptrdiff_t>(first + want.size()), true);
    }
    for (size_t i = 0; i < got.size(); ++i) {
      if (written[i]) continue;
      uint8_t bytes[4];
      std::memcpy(bytes, &got[i], 4);
      ASSERT_TRUE(std::all_of(bytes, bytes + 4, [](uint8_t byte) { return byte == kUntouched; }))
          << c.name << ": wrote row " << i / c.width();
    }
  }

  static bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  double worst_ = 0;
};

const std::vector<PrefillCase>& Cases() {
  static const std::vector<PrefillCase> cases = {
      {"e4m3_64", kE4M3, kE4M3, 16, 9, 3, 64},
      {"e4m3_128", kE4M3, kE4M3, 32, 8, 2, 128},
      {"e4m3_256", kE4M3, kE4M3, 16, 2, 1, 256},
      {"int8_64", kInt8, kInt8, 48, 5, 1, 64},
      {"int8_128", kInt8, kInt8, 16, 2, 2, 128},
      {"int8_256", kInt8, kInt8, 16, 1, 1, 256},
      {"int8_e4m3_64", kInt8, kE4M3, 16, 2, 2, 64},
      {"int8_e4m3_128_group_of_16", kInt8, kE4M3, 64, 16, 1, 128},
      {"int8_e4m3_256", kInt8, kE4M3, 32, 2, 1, 256},
      {"f16_64", kF16, kF16, 16, 4, 2, 64},
      {"f16_128", kF16, kF16, 48, 3, 1, 128},
      {"f16_256", kF16, kF16, 16, 2, 2, 256},
      {"window", kE4M3, kE4M3, 16, 4, 2, 64, 37},
      {"window_of_one", kInt8, kInt8, 16, 2, 1, 64, 1, 1},
      {"window_and_sinks_inside_a_page", kE4M3, kE4M3, 16, 3, 1, 128, 20, 3},
      {"window_and_sinks_across_pages", kE4M3, kE4M3, 32, 2, 1, 64, 100, 40},
      {"window_longer_than_all", kF16, kF16, 16, 2, 1, 64, 1000, 4},
      {"soft_cap", kE4M3, kE4M3, 16, 2, 1, 64, 0, 0, 3.0f},
      {"soft_cap_window", kInt8, kE4M3, 16, 2, 1, 128, 64, 0, 20.0f},
      {"sink_logits", kE4M3, kE4M3, 16, 6, 2, 64, 0, 0, 0.0f, true},
      {"sink_logits_window", kInt8, kInt8, 16, 3, 1, 64, 128, 2, 0.0f, true},
  };
  return cases;
}

TEST_F(PrefillTest, IsTheDefinition) {
  for (const PrefillCase& c : Cases()) {
    PagedBatch b = MakeBatch(c.layout(), c.sequences, /*page_seed=*/1);
    FillPages(&b, 2);
    const std::vector<float> q = Queries(c, b, 3);
    Check(c, b, q, Run(c, b, q));
    ASSERT_EQ(device_->error(), "") << c.name;
  }
  RecordProperty("worst", std::to_string(worst_));
}

TEST_F(PrefillTest, EveryContextWithEveryRowCount) {
  PrefillCase c{"grid", kE4M3, kE4M3, 16, 3, 1, 64};
  c.sequences.clear();
  for (const int context : {0, 1, 17, 33, 257}) {
    for (const int rows : {8, 9, 31, 33, 65}) c.sequences.push_back({context, rows});
  }
  PagedBatch b = MakeBatch(c.layout(), c.sequences, 4);
  FillPages(&b, 5);
  const std::vector<float> q = Queries(c, b, 6);
  Check(c, b, q, Run(c, b, q));
}

TEST_F(PrefillTest, ABatchOfDecodeRowsIsLeftAlone) {
  PrefillCase c{"decode_only", kE4M3, kE4M3, 16, 2, 1, 64};
  c.sequences = {{40, 7}, {3, 1}, {16, 2}};
  PagedBatch b = MakeBatch(c.layout(), c.sequences, 4);
  FillPages(&b, 5);
  const std::vector<float> q = Queries(c, b, 6);
  Check(c, b, q, Run(c, b, q));
}

// Neither where the pages are nor the order of the threads changes a bit.
TEST_F(PrefillTest, PagesAndRunsDoNotChangeABit) {
  for (const PrefillCase& c : {Cases()[0], Cases()[4], Cases()[11], Cases()[15]}) {
    std::vector<float> first;
    for (uint64_t run = 0; run < 4; ++run) {
      PagedBatch b = MakeBatch(c.layout(), c.sequences, 10 + run / 2);
      FillPages(&b, 7);
      const std::vector<float> got = Run(c, b, Queries(c, b, 8));
      if (run == 0) first = got;
      EXPECT_TRUE(SameBits(first, got)) << c.name << ", run " << run;
    }
  }
}

// A prompt in one chunk or in three: each is within u = 2^-11 of the definition (kTolerance), so both are within
// sqrt(2) u < 1e-3 of each other.
TEST_F(PrefillTest, ChunksAreTheWholeWithinRounding) {
  for (const KvFormat format : {kE4M3, kInt8}) {
    PrefillCase c{"chunks", format, format, 16, 4, 1, 128};
    c.window = format == kInt8 ? 50 : 0;
    c.sequences = {{0, 120}};
    PagedBatch whole = MakeBatch(c.layout(), c.sequences, 1);
    FillPages(&whole, 2);
    const std::vector<float> q = Queries(c, whole, 3);
    const std::vector<float> all = Run(c, whole, q);
    int first = 0;
    for (const int rows : {37, 8, 75}) {
      PagedBatch chunk = whole;
      chunk.slices = {{0, rows, first, whole.tables[0].data()}};
      chunk.positions.assign(static_cast<size_t>(rows), 0);
      const size_t from = static_cast<size_t>(first) * c.width(), size = static_cast<size_t>(rows) * c.width();
      const std::vector<float> part(q.begin() + static_cast<std::ptrdiff_t>(from),
                                    q.begin() + static_cast<std::ptrdiff_t>(from + size));
      std::vector<float> got = Run(c, chunk, part);
      got.resize(size);
      const double error = testing::RelativeL2(got, {all.begin() + static_cast<std::ptrdiff_t>(from),
                                                     all.begin() + static_cast<std::ptrdiff_t>(from + size)});
      EXPECT_TRUE(error <= 1e-3) << "rows from " << first << ": " << error;
      first += rows;
    }
  }
}

// Values of very different sizes, zeros among them: a weight in f16 must not vanish because its V has a small scale.
TEST_F(PrefillTest, ScalesOfValuesFarApart) {
  for (const PrefillCase& c :
       {PrefillCase{"e4m3_scales", kE4M3, kE4M3, 16, 2, 1, 64}, PrefillCase{"int8_scales", kInt8, kInt8, 16, 2, 1, 64},
        PrefillCase{"mixed_scales", kInt8, kE4M3, 16, 2, 1, 128}}) {
    for (const double spread : {0.0, 40.0}) {
      PagedBatch b = MakeBatch(c.layout(), {{40, 24}}, 1);
      Random random(9);
      const auto width = static_cast<size_t>(c.kv_heads * c.head_dim);
      for (int t = 0; t < 64; ++t) {
        const std::vector<float> k = random.Normals(width);
        const double size = t % 5 == 0 ? 0.0 : std::exp2(-30.0 + spread * (random.Uniform() - 0.5));
        const std::vector<float> v = random.Normals(width, static_cast<float>(size));
        AppendToken(b.layout, b.kv.page(b.tables[0][static_cast<size_t>(t / c.page_tokens)]), kLayer, t % c.page_tokens,
                    k.data(), v.data());
      }
      const std::vector<float> q = Queries(c, b, 3);
      Check(c, b, q, Run(c, b, q));
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
