#include "kernels/dtype.h"

#include "base/check.h"

namespace dunlin::kernels {
namespace {

constexpr DTypeInfo kTypes[] = {
    {DType::kF32, "F32", 1, 4},         {DType::kF16, "F16", 1, 2},           {DType::kQ4_0, "Q4_0", 32, 18},
    {DType::kQ4_1, "Q4_1", 32, 20},     {DType::kQ5_0, "Q5_0", 32, 22},       {DType::kQ5_1, "Q5_1", 32, 24},
    {DType::kQ8_0, "Q8_0", 32, 34},     {DType::kQ2_K, "Q2_K", 256, 84},      {DType::kQ3_K, "Q3_K", 256, 110},
    {DType::kQ4_K, "Q4_K", 256, 144},   {DType::kQ5_K, "Q5_K", 256, 176},     {DType::kQ6_K, "Q6_K", 256, 210},
    {DType::kIQ4_NL, "IQ4_NL", 32, 18}, {DType::kIQ4_XS, "IQ4_XS", 256, 136}, {DType::kBF16, "BF16", 1, 2},
    {DType::kInt2, "INT2", 32, 11},     {DType::kInt3, "INT3", 32, 15},       {DType::kInt4, "INT4", 32, 19},
    {DType::kInt8, "INT8", 32, 35},     {DType::kE4M3, "E4M3", 32, 34},
};

}  // namespace

const DTypeInfo* FindDType(int32_t type_id) {
  for (const DTypeInfo& info : kTypes) {
    if (static_cast<int32_t>(info.type) == type_id) return &info;
  }
  return nullptr;
}

const DTypeInfo& GetDTypeInfo(DType type) {
  const DTypeInfo* info = FindDType(static_cast<int32_t>(type));
  CHECK(info != nullptr) << "tensor type id " << static_cast<int32_t>(type) << " is not in the table";
  return *info;
}

}  // namespace dunlin::kernels
