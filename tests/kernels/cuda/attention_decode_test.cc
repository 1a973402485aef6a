// Decode attention against its definition in double on what the pages store.
//
// Tolerance: the oracle rounds q to f16 as the kernel does, so what is left is the rounding of the weights p to f16
// (relative error at most u = 2^-11, uniform: u / sqrt(3) in the mean square) and of f32 sums (2^-24, nothing beside
// it). out = sum p_j v_j / sum p_j with errors of p_j that are independent, and v_j of mean zero, has the relative
// error u / sqrt(3) = 2.8e-4 in the L2 norm of a row; over the 64 values or more of a row it scatters by a tenth. 1e-3
// is above it three times and a half; a token that is missing or too many, of 700, is an error of 0.04.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/attention.h"
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

constexpr double kTolerance = 1e-3;
constexpr float kUntouched = -12345.0f;
constexpr int kPaddingRows = 3;

struct Case {
  KvFormat k_format = KvFormat::kE4M3;
  KvFormat v_format = KvFormat::kE4M3;
  int dim = 64;
  int q_heads = 3;
  int kv_heads = 1;
  int window = 0;
  int sinks = 0;
  float soft_cap = 0.0f;
  bool sink_logits = false;
  int page_tokens = 16;
  int max_parts = 0;
  float q_scale = 1.0f;

  AttentionShape shape() const {
    AttentionShape s;
    s.num_q_heads = q_heads;
    s.num_kv_heads = kv_heads;
    s.head_dim = dim;
    s.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    s.window = window;
    s.sinks = sinks;
    return s;
  }
  PageLayout layout() const {
    return PageLayout::Create(page_tokens, 2, kv_heads, dim, k_format, v_format, false, SlabOrder::kDevice);
  }
};
constexpr int kLayer = 1;

std::vector<SequenceShape> OneRowEach(const std::vector<int>& contexts) {
  std::vector<SequenceShape> shapes;
  for (const int context : contexts) shapes.push_back({context - 1, 1});
  return shapes;
}

struct Inputs {
  PagedBatch batch;
  std::vector<float> q;  // of the rows, without padding
  std::vector<float> sink_logits;
};

Inputs MakeInputs(const Case& c, const std::vector<SequenceShape>& sequences, uint64_t page_seed = 3) {
  Inputs in;
  in.batch = MakeBatch(c.layout(), sequences, page_seed);
  FillPages(&in.batch, 11);
  Random random(5);
  in.q = random.Normals(in.batch.positions.size() * static_cast<size_t>(c.q_heads * c.dim), c.q_scale);
  in.sink_logits = random.Normals(static_cast<size_t>(c.q_heads), 2.0f);
  return in;
}

const uint8_t* PageOfToken(const PagedBatch& b, size_t sequence, int token) {
  return b.kv.page(b.tables[sequence][static_cast<size_t>(token / b.layout.page_tokens)]);
}

// One row and q head, in double.
std::vector<double> OracleHead(const Case& c, const Inputs& in, size_t sequence, int row, int head) {
  const PagedBatch& b = in.batch;
  const int position = b.positions[static_cast<size_t>(row)], kv_head = head / (c.q_heads / c.kv_heads);
  const size_t dim = static_cast<size_t>(c.dim);
  const float* q = in.q.data() + static_cast<size_t>(row * c.q_heads + head) * dim;
  const SeenRuns seen = TokensSeen(c.shape().pattern(), position, position);
  std::vector<double> scores;
  std::vector<float> vector(dim);
  double top = c.sink_logits ? static_cast<double>(in.sink_logits[static_cast<size_t>(head)]) : -INFINITY;
  for (int t = 0; t <= position; ++t) {
    if (!seen.Contains(t)) continue;
    ReadKey(b.layout, PageOfToken(b, sequence, t), kLayer, kv_head, t % c.page_tokens, vector.data());
    double s = 0;
    for (size_t d = 0; d < dim; ++d) s += static_cast<double>(HalfToFloat(FloatToHalf(q[d]))) * vector[d];
    s *= static_cast<double>(c.shape().scale);
    if (c.soft_cap > 0) s = c.soft_cap * std::tanh(s / c.soft_cap);
    scores.push_back(s);
    top = std::max(top, s);
  }
  double sum = c.sink_logits ? std::exp(static_cast<double>(in.sink_logits[static_cast<size_t>(head)]) - top) : 0.0;
  std::vector<double> out(dim, 0.0);
  size_t next = 0;
  for (int t = 0; t <= position; ++t) {
    if (!seen.Contains(t)) continue;
    const double p = std::exp(scores[next++] - top);
    sum += p;
    ReadValue(b.layout, PageOfToken(b, sequence, t), kLayer, kv_head, t % c.page_tokens, vector.data());
    for (size_t d = 0; d < dim; ++d) out[d] += p * static_cast<double>(vector[d]);
  }
  for (double& x : out) x /= sum;
  return out;
}

// Of the sequences that decode serves; the others' rows stay empty.
std::vector<std::vector<double>> Oracle(const Case& c, const Inputs& in) {
  std::vector<std::vector<double>> rows(in.batch.positions.size());
  for (size_t i = 0; i < in.batch.slices.size(); ++i) {
    const SequenceSlice& s = in.batch.slices[i];
    for (int row = s.first_row; row < s.first_row + s.num_rows && s.num_rows < kPrefillRows; ++row) {
      for (int head = 0; head < c.q_heads; ++head) {
        const std::vector<double> out = OracleHead(c, in, i, row, head);
        rows[static_cast<size_t>(row)].insert(rows[static_cast<size_t>(row)].end(), out.begin(), out.end());
      }
    }
  }
  return rows;
}

class AttentionDecode : public testing::DeviceTest {
 protected:
  // The output of all rows and of the padding; what no kernel wrote is kUntouched.
  std::vector<float> Decode(const Case& c, const Inputs& in) {
    const PagedBatch& b = in.batch;
    const int rows = static_cast<int>(b.positions.size()), max_rows = rows + kPaddingRows;
    std::vector<int32_t> positions = b.positions, row_sequence, tables;
    std::vector<DeviceSequence> sequences;
    int max_context = 0;
    for (size_t i = 0; i < b.slices.size(); ++i) {
      const SequenceSlice& s = b.slices[i];
      sequences.push_back({s.first_row, s.num_rows, s.context_tokens, static_cast<int32_t>(tables.size())});
      tables.insert(tables.end(), b.tables[i].begin(), b.tables[i].end());
      row_sequence.insert(row_sequence.end(), static_cast<size_t>(s.num_rows), static_cast<int32_t>(i));
      max_context = std::max(max_context, s.context_tokens + s.num_rows);
    }
    positions.resize(static_cast<size_t>(max_rows), 1 << 30);
    row_sequence.resize(static_cast<size_t>(max_rows), 1 << 30);
    std::vector<float> q = in.q;
    const size_t width = static_cast<size_t>(c.q_heads * c.dim);
    q.resize(static_cast<size_t>(max_rows) * width, std::numeric_limits<float>::quiet_NaN());

    const auto memory = Upload(b.memory);
    const auto counts = Upload(std::vector<BatchCounts>{{rows, static_cast<int32_t>(sequences.size()), 0, 0}});
    const auto d_positions = Upload(positions), d_row_sequence = Upload(row_sequence), d_tables = Upload(tables);
    const auto d_sequences = Upload(sequences);
    const auto d_q = Upload(q), d_sinks = Upload(in.sink_logits);
    const auto out = Upload(std::vector<float>(q.size(), kUntouched));

    DeviceBatch batch;
    batch.max_rows = max_rows;
    batch.max_sequences = static_cast<int32_t>(sequences.size());
    batch.counts = counts.data();
    batch.positions = d_positions.data();
    batch.row_sequence = d_row_sequence.data();
    batch.sequences = d_sequences.data();
    batch.pages = d_tables.data();
    const DevicePages pages{memory.data(), b.layout};
    AttentionLimits limits;
    limits.max_rows = max_rows;
    limits.max_context = max_context;
    limits.max_parts = c.max_parts;
    limits.shape = c.shape();
    const auto workspace = Room<uint8_t>(AttentionWorkspaceBytes(*device_, limits));
    AttentionCallArgs args;
    args.shape = c.shape();
    args.soft_cap = c.soft_cap;
    args.sink_logits = c.sink_logits ? d_sinks.data() : nullptr;
    args.layer = kLayer;
    args.q = d_q.data();
    args.out = out.data();
    args.workspace = workspace.data();
    EXPECT_EQ(AttentionUnsupported(args.shape, b.layout), nullptr);
    PlanAttention(device_, limits, batch, pages, workspace.data());
    DecodeAttention(device_, args, limits, batch, pages);
    return Download(out);
  }

  // The largest relative L2 error of a row; rows that decode does not serve must be as they were.
  double Error(const Case& c, const Inputs& in, const std::vector<float>& got) {
    const std::vector<std::vector<double>> want = Oracle(c, in);
    const auto width = static_cast<std::ptrdiff_t>(c.q_heads * c.dim);
    double worst = 0;
    for (std::ptrdiff_t row = 0; row < static_cast<std::ptrdiff_t>(got.size()) / width; ++row) {
      const std::vector<float> values(got.begin() + row * width, got.begin() + (row + 1) * width);
      if (row >= static_cast<std::ptrdiff_t>(want.size()) || want[static_cast<size_t>(row)].empty()) {
        EXPECT_EQ(std::count(values.begin(), values.end(), kUntouched), width) << "row " << row;
        continue;
      }
      const double error = testing::RelativeL2(values, want[static_cast<size_t>(row)]);
      if (!(error <= worst)) worst = error;
    }
    return worst;
  }
  void Check(const Case& c, const Inputs& in) {
    const double error = Error(c, in, Decode(c, in));
    EXPECT_TRUE(error <= kTolerance) << error;
  }
};

const std::vector<int> kContexts = {1, 17, 31, 33, 257, 700};

TEST_F(AttentionDecode, E4M3) {
  Case c;
  Check(c, MakeInputs(c, OneRowEach(kContexts)));
}

}  // namespace
}  // namespace dunlin::kernels::cuda
