#include "tests/support/gguf_builder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/quant_format.h"

namespace dunlin::testing {
namespace {

using kernels::DType;
using model::GgufType;

static_assert(std::endian::native == std::endian::little, "the builder copies native bytes");

template <typename T>
void Put(std::string* out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out->append(bytes, sizeof(T));
}

void PutString(std::string* out, absl::string_view s) {
  Put<uint64_t>(out, s.size());
  out->append(s.data(), s.size());
}

void PadTo(std::string* out, size_t alignment) { out->append((alignment - out->size() % alignment) % alignment, '\0'); }

template <typename T>
std::string Payload(T value) {
  std::string out;
  Put(&out, value);
  return out;
}

std::string ArrayHeader(GgufType element_type, size_t count) {
  std::string out;
  Put<int32_t>(&out, static_cast<int32_t>(element_type));
  Put<uint64_t>(&out, count);
  return out;
}

constexpr int kBlock = 32;

// The reference rounding of the 32-element types: codes are truncated after adding a half, and clamped at the top.
int Code(float x, float inverse_d, float offset, int max_code) {
  return std::clamp(static_cast<int>(x * inverse_d + offset), 0, max_code);
}

struct CodedBlock {
  float d;
  std::optional<float> min;
  std::array<int, kBlock> codes;
};

// Q4_0, Q5_0: d maps the value of largest magnitude (with its sign) to the lowest code.
CodedBlock CodeSymmetric(std::span<const float> x, int bits) {
  float extreme = 0.0f;
  for (const float v : x) {
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  }
  const int half = 1 << (bits - 1);
  CodedBlock block{extreme / static_cast<float>(-half), std::nullopt, {}};
  const float inverse = block.d != 0.0f ? 1.0f / block.d : 0.0f;
  for (size_t j = 0; j < kBlock; ++j)
    block.codes[j] = Code(x[j], inverse, static_cast<float>(half) + 0.5f, 2 * half - 1);
  return block;
}

// Q4_1, Q5_1: codes span [min, max].
CodedBlock CodeWithMin(std::span<const float> x, int bits) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const int max_code = (1 << bits) - 1;
  CodedBlock block{(*high - *low) / static_cast<float>(max_code), *low, {}};
  const float inverse = block.d != 0.0f ? 1.0f / block.d : 0.0f;
  for (size_t j = 0; j < kBlock; ++j) block.codes[j] = Code(x[j] - *low, inverse, 0.5f, max_code);
  return block;
}

void PutCodedBlock(std::string* out, const CodedBlock& block, int bits) {
  Put(out, kernels::FloatToHalf(block.d));
  if (block.min.has_value()) Put(out, kernels::FloatToHalf(*block.min));
  if (bits == 5) {
    uint32_t high_bits = 0;
    for (size_t j = 0; j < kBlock; ++j) high_bits |= static_cast<uint32_t>(block.codes[j] >> 4) << j;
    Put(out, high_bits);
  }
  for (size_t j = 0; j < kBlock / 2; ++j) {
    Put(out, static_cast<uint8_t>((block.codes[j] & 15) | ((block.codes[j + kBlock / 2] & 15) << 4)));
  }
}

void PutQ8Block(std::string* out, std::span<const float> x) {
  float largest = 0.0f;
  for (const float v : x) largest = std::max(largest, std::fabs(v));
  const float d = largest / 127.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  Put(out, kernels::FloatToHalf(d));
  for (const float v : x) Put(out, static_cast<int8_t>(std::roundf(v * inverse)));
}

void PutBlock(std::string* out, DType type, std::span<const float> x) {
  switch (type) {
    case DType::kF32:
      return Put(out, x[0]);
    case DType::kF16:
      return Put(out, kernels::FloatToHalf(x[0]));
    case DType::kBF16:
      return Put(out, kernels::FloatToBfloat16(x[0]));
    case DType::kQ4_0:
      return PutCodedBlock(out, CodeSymmetric(x, 4), 4);
    case DType::kQ4_1:
      return PutCodedBlock(out, CodeWithMin(x, 4), 4);
    case DType::kQ5_0:
      return PutCodedBlock(out, CodeSymmetric(x, 5), 5);
    case DType::kQ5_1:
      return PutCodedBlock(out, CodeWithMin(x, 5), 5);
    case DType::kQ8_0:
      return PutQ8Block(out, x);
    default:
      CHECK(false) << "no reference encoder for " << kernels::GetDTypeInfo(type).name;
  }
}

}  // namespace

std::string EncodeRow(DType type, std::span<const float> values) {
  const auto block = static_cast<size_t>(kernels::GetDTypeInfo(type).block_elements);
  CHECK_EQ(values.size() % block, 0u) << kernels::GetDTypeInfo(type).name;
  std::string out;
  for (size_t i = 0; i < values.size(); i += block) PutBlock(&out, type, values.subspan(i, block));
  CHECK_EQ(out.size(), kernels::RowBytes(type, static_cast<int64_t>(values.size())));
  return out;
}

GgufBuilder& GgufBuilder::Version(uint32_t version) {
  version_ = version;
  return *this;
}

GgufBuilder& GgufBuilder::Alignment(uint32_t alignment) {
  CHECK_GT(alignment, 0u);
  alignment_ = alignment;
  Remove("general.alignment");
  return alignment == 32 ? *this : U32("general.alignment", alignment);
}

GgufBuilder& GgufBuilder::Raw(absl::string_view key, int32_t type_id, absl::string_view payload) {
  keys_.emplace_back(std::string(key), absl::StrCat(Payload(type_id), payload));
  return *this;
}

#define DUNLIN_SCALAR(Name, Type, type_id)                                          \
  GgufBuilder& GgufBuilder::Name(absl::string_view key, Type value) {               \
    return Raw(key, static_cast<int32_t>(GgufType::type_id), Payload<Type>(value)); \
  }
DUNLIN_SCALAR(U32, uint32_t, kU32)
DUNLIN_SCALAR(I32, int32_t, kI32)
DUNLIN_SCALAR(U64, uint64_t, kU64)
DUNLIN_SCALAR(F32, float, kF32)
DUNLIN_SCALAR(F64, double, kF64)
DUNLIN_SCALAR(Bool, bool, kBool)
#undef DUNLIN_SCALAR

GgufBuilder& GgufBuilder::String(absl::string_view key, absl::string_view value) {
  std::string payload;
  PutString(&payload, value);
  return Raw(key, static_cast<int32_t>(GgufType::kString), payload);
}

GgufBuilder& GgufBuilder::Strings(absl::string_view key, const std::vector<std::string>& values) {
  std::string payload = ArrayHeader(GgufType::kString, values.size());
  for (const std::string& s : values) PutString(&payload, s);
  return Raw(key, static_cast<int32_t>(GgufType::kArray), payload);
}

GgufBuilder& GgufBuilder::I32s(absl::string_view key, const std::vector<int32_t>& values) {
  std::string payload = ArrayHeader(GgufType::kI32, values.size());
  for (const int32_t v : values) Put(&payload, v);
  return Raw(key, static_cast<int32_t>(GgufType::kArray), payload);
}

GgufBuilder& GgufBuilder::F32s(absl::string_view key, const std::vector<float>& values) {
  std::string payload = ArrayHeader(GgufType::kF32, values.size());
  for (const float v : values) Put(&payload, v);
  return Raw(key, static_cast<int32_t>(GgufType::kArray), payload);
}

GgufBuilder& GgufBuilder::Tensor(absl::string_view name, const std::vector<int64_t>& dims, int32_t type_id,
                                 std::string data) {
  tensors_.push_back({std::string(name), dims, type_id, std::move(data)});
  return *this;
}

GgufBuilder& GgufBuilder::Tensor(absl::string_view name, const std::vector<int64_t>& dims, DType type,
                                 std::span<const float> values) {
  int64_t elements = 1;
  for (const int64_t d : dims) elements *= d;
  CHECK_EQ(static_cast<size_t>(elements), values.size()) << std::string(name);
  return Tensor(name, dims, static_cast<int32_t>(type), EncodeRow(type, values));
}

GgufBuilder& GgufBuilder::Remove(absl::string_view key_or_tensor) {
  std::erase_if(keys_, [&](const auto& entry) { return entry.first == key_or_tensor; });
  std::erase_if(tensors_, [&](const TensorEntry& t) { return t.name == key_or_tensor; });
  return *this;
}

std::string GgufBuilder::Build() const {
  std::string out = "GGUF";
  Put(&out, version_);
  Put<uint64_t>(&out, tensors_.size());
  Put<uint64_t>(&out, keys_.size());
  for (const auto& [key, value] : keys_) {
    PutString(&out, key);
    out += value;
  }
  std::string data;
  for (const TensorEntry& t : tensors_) {
    PadTo(&data, alignment_);
    PutString(&out, t.name);
    Put<uint32_t>(&out, static_cast<uint32_t>(t.dims.size()));
    for (const int64_t d : t.dims) Put(&out, d);
    Put(&out, t.type_id);
    Put<uint64_t>(&out, data.size());
    data += t.data;
  }
  PadTo(&data, alignment_);
  PadTo(&out, alignment_);
  return out + data;
}

}  // namespace dunlin::testing
