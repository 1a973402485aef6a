#include "kernels/cpu/products.h"

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kPrefetchBytes = 6144;  // until the hardware's prefetchers have found the stream

size_t Index(int64_t i) { return static_cast<size_t>(i); }
size_t RecordBytes(int cols) {
  return ActivationLayout{(cols + kTileColumns - 1) / kTileColumns * kTileColumns}.bytes();
}

}  // namespace

void AlignedBytes::Allocate(size_t bytes) {
  memory_.reset(new uint8_t[bytes + kAlign]);
  const auto address = reinterpret_cast<uintptr_t>(memory_.get());
  data_ = memory_.get() + (kAlign - address % kAlign) % kAlign;
}

void Products::Reserve(int max_rows, int max_cols) {
  max_rows_ = max_rows;
  max_cols_ = max_cols;
  const size_t record_bytes = RecordBytes(max_cols);
  records_.Allocate(Index(max_rows) * record_bytes);
  output_records_.Allocate(Index(max_rows) * record_bytes);
  float_rows_.Allocate(Index(max_rows) * Index(max_cols) * sizeof(float));
  scratch_ = std::vector<Scratch>(Index(pool_->num_threads()));
  for (Scratch& s : scratch_) {
    s.row.assign(Index(max_cols), 0.0f);
    s.expanded.Allocate(ExpandedBytes(max_cols));
    for (std::vector<float>& block : s.block) block.assign(Index(std::min(max_rows, kRowsPerBlock)) * kBlockRows, 0.0f);
    s.records.Allocate(kPrivateRows * record_bytes);
    s.float_rows.assign(kPrivateRows * Index(max_cols), 0.0f);
  }
}

int Products::NumBlocks(Matrices matrices) {
  int blocks = 0;
  for (const CpuMatrix* m : matrices) blocks += NumBlocks(*m);
  return blocks;
}

void Products::PrepareRow(const RowSource& source, int row, int cols, uint8_t* record, float* floats,
                          float* scratch_row) const {
  const float* x = source.x + Index(source.gather != nullptr ? source.gather[row] : row) * Index(cols);
  if (source.norm != nullptr) {
    float* to = floats != nullptr ? floats : scratch_row;
    kernels_->rms_norm(x, source.norm, source.eps, cols, to);
    x = to;
  } else if (floats != nullptr) {
    std::copy_n(x, cols, floats);
  }
  if (record != nullptr) {
    kernels_->quantize(x, ActivationLayout{cols}.blocks(), reinterpret_cast<ActivationBlock*>(record));
  }
}

Products::Inputs Products::Prepare(ThreadPool::Context& context, int phase, Matrices matrices, const RowSource& source,
                                   int num_rows) {
  CHECK_LE(num_rows, max_rows_);
  Scratch& own = scratch_[Index(context.thread())];
  const bool shared = num_rows > kPrivateRows;
  bool quantized = false;
  bool plain = false;
  for (const CpuMatrix* m : matrices) {
    CHECK_EQ(m->cols, matrices.front()->cols);
    (IsQuantized(m->kind) ? quantized : plain) = true;
  }
  const int cols = matrices.front()->cols;
  CHECK_LE(cols, max_cols_);
  uint8_t* records = quantized ? (shared ? records_ : own.records).data() : nullptr;
  // Floats that are there already need not be copied.
  const bool borrowed = source.norm == nullptr && source.gather == nullptr;
  float* floats = nullptr;
  if (plain && !borrowed) floats = shared ? reinterpret_cast<float*>(float_rows_.data()) : own.float_rows.data();
  const Inputs inputs{cols, num_rows, records, plain && borrowed ? source.x : floats};
  const ActivationLayout layout{cols};
  const auto prepare = [&](int64_t row) {
    PrepareRow(source, static_cast<int>(row), cols,
               records != nullptr ? records + Index(row) * layout.bytes() : nullptr,
               floats != nullptr ? floats + Index(row) * Index(cols) : nullptr, own.row.data());
  };
  if (!shared) {
    for (int row = 0; row < num_rows; ++row) prepare(row);
    return inputs;
  }
  context.ForShare(phase, num_rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) prepare(row);
  });
  context.Barrier();
  return inputs;
}

Products::Output Products::MakeOutput(const CpuMatrix& next) {
  CHECK(IsQuantized(next.kind));
  CHECK_LE(next.cols, max_cols_);
  return {ActivationLayout{next.cols}, output_records_.data()};
}

void Products::MultiplyBlock(ThreadPool::Context& context, const CpuMatrix& w, const Inputs& inputs, int block,
                             int first_row, int num_rows, float* out) const {
  const int block_groups = kBlockRows / w.group_rows;
  MultiplyArgs args;
  args.matrix = &w;
  args.first_group = block * block_groups;
  args.num_groups = std::min(block_groups, w.num_groups() - args.first_group);
  if (IsQuantized(w.kind)) {
    args.row_stride = ActivationLayout{w.cols}.bytes();
    args.rows = inputs.records + Index(first_row) * args.row_stride;
  } else {
    args.row_stride = Index(w.cols) * sizeof(float);
    args.rows = reinterpret_cast<const uint8_t*>(inputs.floats) + Index(first_row) * args.row_stride;
  }
  args.num_rows = num_rows;
  args.scratch = scratch_[Index(context.thread())].expanded.data();
  args.out = out;
  const int next_group = args.first_group + args.num_groups;
  if (next_group < w.num_groups()) {
    args.next = w.group(next_group);
    args.next_bytes = Index(std::min(block_groups, w.num_groups() - next_group)) * w.group_bytes;
  }
  kernels_->multiply(args);
}

void Products::PrefetchShare(const ThreadPool::Context& context, Matrices matrices) const {
  int64_t block = context.ShareBegin(NumBlocks(matrices));
  for (const CpuMatrix* m : matrices) {
    if (block >= NumBlocks(*m)) {
      block -= NumBlocks(*m);
      continue;
    }
    const uint8_t* from = m->group(static_cast<int>(block) * (kBlockRows / m->group_rows));
    const size_t left = Index(m->data + m->packed_bytes() - from);
    for (size_t at = 0; at < std::min(left, kPrefetchBytes); at += kAlign) __builtin_prefetch(from + at, 0, 2);
    return;
  }
}

}  // namespace dunlin::kernels::cpu
