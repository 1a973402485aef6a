#include "kernels/cuda/products.h"

#include "base/check.h"
#include "kernels/cuda/product_args.h"

namespace dunlin::kernels::cuda {
namespace {

bool SameKernel(const CudaMatrix& a, const CudaMatrix& b) {
  return a.kind == b.kind && (a.factor_cols == 16) == (b.factor_cols == 16) &&
         (a.second == CudaSecond::kNone) == (b.second == CudaSecond::kNone);
}

void CheckShapes(const CudaMatrix& m, const PreparedRows& in) {
  CHECK_EQ(m.cols, in.cols);
  CHECK_EQ(m.units() * kUnitColumns, in.stride);
  CHECK_EQ(m.takes_codes(), in.codes != nullptr);
}

void Launch(Device* device, const ProductArgs& args) {
  const CudaMatrix& m = args.matrices[0];
  switch (m.kind) {
    case CudaKind::kW2:
      return LaunchW2(device, args, m.factor_cols == 16, m.second != CudaSecond::kNone);
    case CudaKind::kW4:
      return LaunchW4(device, args, m.factor_cols == 16, m.second != CudaSecond::kNone);
    case CudaKind::kW8:
      return LaunchW8(device, args, m.factor_cols == 16, m.second != CudaSecond::kNone);
    case CudaKind::kE4M3:
      return LaunchE4M3(device, args);
    case CudaKind::kF16:
      return LaunchF16(device, args);
  }
}

}  // namespace

void Multiply(Device* device, const CudaMatrix& matrix, const PreparedRows& in, const int32_t* num_rows,
              const ProductOut& out) {
  const ProductPart part = {&matrix, out};
  MultiplyParts(device, &part, 1, in, num_rows);
}

void MultiplyParts(Device* device, const ProductPart* parts, int num_parts, const PreparedRows& in,
                   const int32_t* num_rows) {
  CHECK(num_parts >= 1 && num_parts <= kMaxParts) << num_parts;
  if (in.rows == 0) return;
  bool done[kMaxParts] = {};
  for (int i = 0; i < num_parts; ++i) {
    CheckShapes(*parts[i].matrix, in);
    if (done[i]) continue;
    ProductArgs args;
    args.in = in;
    args.num_rows = num_rows;
    for (int j = i; j < num_parts; ++j) {  // with it, all that the same kernel multiplies
      if (!SameKernel(*parts[i].matrix, *parts[j].matrix)) continue;
      args.matrices[args.num_parts] = *parts[j].matrix;
      args.outs[args.num_parts++] = parts[j].out;
      done[j] = true;
    }
    Launch(device, args);
  }
}

void MultiplyGated(Device* device, const CudaMatrix& gate, const CudaMatrix& up, FfnActivation activation,
                   const PreparedRows& in, const int32_t* num_rows, float* out) {
  CHECK_EQ(gate.rows, up.rows);
  CheckShapes(gate, in);
  CheckShapes(up, in);
  if (in.rows == 0) return;
  if (!SameKernel(gate, up)) {
    Multiply(device, gate, in, num_rows, {.out = out, .ld = gate.rows});
    Multiply(device, up, in, num_rows, {.out = out, .ld = up.rows, .gate = true, .activation = activation});
    return;
  }
  ProductArgs args;
  args.matrices[0] = gate;
  args.matrices[1] = up;
  args.outs[0] = {.out = out, .ld = gate.rows};
  args.num_parts = 1;
  args.gated = true;
  args.log_splits = 2;
  args.activation = activation;
  args.in = in;
  args.num_rows = num_rows;
  Launch(device, args);
}

}  // namespace dunlin::kernels::cuda
