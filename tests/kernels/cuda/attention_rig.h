// Runs a case of attention on the device: uploads pages and batch with rows of padding behind them, and says how far
// the rows are from the oracle (attention_cases.h). Thread-safety: none needed.  Source: ours.
#ifndef DUNLIN_TESTS_KERNELS_CUDA_ATTENTION_RIG_H_
#define DUNLIN_TESTS_KERNELS_CUDA_ATTENTION_RIG_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/attention.h"
#include "tests/kernels/cuda/attention_cases.h"
#include "tests/kernels/cuda/device_fixture.h"

namespace dunlin::kernels::cuda::testing {

inline constexpr float kUntouched = -12345.0f;
inline constexpr int kPaddingRows = 3;

// What a launch is given.
struct AttentionLaunch {
  Device* device;
  AttentionCallArgs args;
  AttentionLimits limits;
  DeviceBatch batch;
  DevicePages pages;
};

class AttentionTest : public DeviceTest {
 protected:
  // The output of all rows and of the padding after `launch(AttentionLaunch)`; what no kernel wrote is kUntouched.
  template <typename Launch>
  std::vector<float> Run(const AttentionCase& c, const AttentionInputs& in, const Launch& launch) {
    const kernels::testing::PagedBatch& b = in.batch;
    const int rows = static_cast<int>(b.positions.size()), max_rows = rows + kPaddingRows;
    std::vector<int32_t> positions = b.positions, row_sequence, tables;
    std::vector<DeviceSequence> sequences;
    AttentionLaunch l;
    l.device = device_;
    for (size_t i = 0; i < b.slices.size(); ++i) {
      const SequenceSlice& s = b.slices[i];
      sequences.push_back({s.first_row, s.num_rows, s.context_tokens, static_cast<int32_t>(tables.size())});
      tables.insert(tables.end(), b.tables[i].begin(), b.tables[i].end());
      row_sequence.insert(row_sequence.end(), static_cast<size_t>(s.num_rows), static_cast<int32_t>(i));
      l.limits.max_context = std::max(l.limits.max_context, s.context_tokens + s.num_rows);
    }
    constexpr int32_t kAnything = 1 << 30;
    const auto num_sequences = static_cast<int32_t>(sequences.size());
    sequences.resize(sequences.size() + 2, {kAnything, kAnything, kAnything, kAnything});
    positions.resize(static_cast<size_t>(max_rows), kAnything);
    row_sequence.resize(static_cast<size_t>(max_rows), kAnything);
    std::vector<float> q = in.q;
    q.resize(static_cast<size_t>(max_rows * c.q_heads * c.dim), std::numeric_limits<float>::quiet_NaN());

    const auto memory = Upload(b.memory);
    const auto counts = Upload(std::vector<BatchCounts>{{rows, num_sequences, 0, 0}});
    const auto d_positions = Upload(positions), d_row_sequence = Upload(row_sequence), d_tables = Upload(tables);
    const auto d_sequences = Upload(sequences);
    const auto d_q = Upload(q), d_sinks = Upload(in.sink_logits);
    const auto out = Upload(std::vector<float>(q.size(), kUntouched));
    l.batch.max_rows = max_rows;
    l.batch.max_sequences = static_cast<int32_t>(sequences.size());
    l.batch.counts = counts.data();
    l.batch.positions = d_positions.data();
    l.batch.row_sequence = d_row_sequence.data();
    l.batch.sequences = d_sequences.data();
    l.batch.pages = d_tables.data();
    l.pages = {memory.data(), b.layout};
    l.limits.max_rows = max_rows;
    l.limits.max_parts = c.max_parts;
    l.limits.shape = c.shape();
    const auto workspace = Room<uint8_t>(AttentionWorkspaceBytes(*device_, l.limits));
    l.args.shape = c.shape();
    l.args.soft_cap = c.soft_cap;
    l.args.sink_logits = c.sink_logits ? d_sinks.data() : nullptr;
    l.args.layer = kLayer;
    l.args.q = d_q.data();
    l.args.out = out.data();
    l.args.workspace = workspace.data();
    EXPECT_EQ(AttentionUnsupported(l.args.shape, b.layout), nullptr);
    launch(l);
    return Download(out);
  }

  // The largest relative L2 error of a row; rows that want has not must be untouched.
  double Error(const AttentionCase& c, const std::vector<float>& got, const std::vector<std::vector<double>>& want) {
    const auto width = static_cast<std::ptrdiff_t>(c.q_heads * c.dim);
    double worst = 0;
    for (std::ptrdiff_t row = 0; row < static_cast<std::ptrdiff_t>(got.size()) / width; ++row) {
      const std::vector<float> values(got.begin() + row * width, got.begin() + (row + 1) * width);
      if (row >= static_cast<std::ptrdiff_t>(want.size()) || want[static_cast<size_t>(row)].empty()) {
        EXPECT_EQ(std::count(values.begin(), values.end(), kUntouched), width) << "row " << row;
        continue;
      }
      const double error = RelativeL2(values, want[static_cast<size_t>(row)]);
      if (!(error <= worst)) worst = error;
    }
    return worst;
  }
};

class DecodeTest : public AttentionTest {
 protected:
  std::vector<float> Decode(const AttentionCase& c, const AttentionInputs& in) {
    return Run(c, in, [](const AttentionLaunch& l) {
      PlanAttention(l.device, l.limits, l.batch, l.pages, l.args.workspace);
      DecodeAttention(l.device, l.args, l.limits, l.batch, l.pages);
    });
  }
  void Check(const AttentionCase& c, const AttentionInputs& in) {
    const double error = Error(c, Decode(c, in), Oracle(c, in, [](int rows) { return rows < kPrefillRows; }));
    EXPECT_TRUE(error <= kTolerance) << error;
  }
};

}  // namespace dunlin::kernels::cuda::testing

#endif  // DUNLIN_TESTS_KERNELS_CUDA_ATTENTION_RIG_H_
