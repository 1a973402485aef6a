// Gguf::Parse. The file is hostile until proven otherwise. What is checked, and where ([n] stands next to the code):
//   [1] magic, version 2 or 3; the other byte order is recognised (low 16 bits of the version all zero) and named
//   [2] tensor and key counts against the bytes left (so that no count alone can make us allocate)
//   [3] string lengths: at most 1 Gi and the bytes left
//   [4] keys: not empty, no duplicates; value types 0..12; a bool byte is 0 or 1
//   [5] arrays: no nesting, element type 0..12, count at most 1 Gi and what the bytes left can hold
//   [6] general.alignment: a power of two
//   [7] tensor names: not empty, under 64 bytes, no duplicates
//   [8] dimensions: at most 4, each >= 1, element count within 63 bits
//   [9] tensor type: known to the format, readable by this build; dims[0] in whole blocks; byte size within 63 bits
//  [10] offsets: each equals the padded sum of the sizes before it (no gap, no overlap), and the data lies in the file
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/gguf/gguf.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

constexpr uint64_t kMaxLength = uint64_t{1} << 30;
constexpr size_t kMaxTensorName = 63;
constexpr uint32_t kMaxDims = 4;
// The least a key or a tensor can take in the file: length + 1 byte + type + 1 byte; length + 1 byte + one dimension +
// type + offset.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("GGUF: ", args...));
}

static_assert(std::endian::native == std::endian::little,
              "values are copied out of the little-endian file as they are");

// Bounds-checked reads that move a position forward.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    if (left() < sizeof(T)) return Ends(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  absl::StatusOr<absl::string_view> ReadString(absl::string_view what) {
    ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > kMaxLength) return Bad(what, " has length ", length, "; at most ", kMaxLength, " is allowed");  // [3]
    if (length > left()) return Ends(what, length);
    const absl::string_view out(reinterpret_cast<const char*>(bytes_.data() + position_), static_cast<size_t>(length));
    position_ += static_cast<size_t>(length);
    return out;
  }

 private:
  absl::Status Ends(absl::string_view what, uint64_t wanted) const {
    return Bad("the file ends inside ", what, ": ", wanted, " bytes wanted at offset ", position_, ", ", left(),
               " left");
  }

  std::span<const uint8_t> bytes_;
  size_t position_ = 0;
};

using Scalar = decltype(GgufValue::scalar);

// Reads one number and widens it without loss to what GgufValue keeps.
template <typename T>
absl::StatusOr<Scalar> ReadNumber(Reader* in, absl::string_view what) {
  ASSIGN_OR_RETURN(const T value, in->Read<T>(what));
  if constexpr (std::is_floating_point_v<T>) return Scalar(static_cast<double>(value));
  if constexpr (std::is_unsigned_v<T>) return Scalar(static_cast<uint64_t>(value));
  if constexpr (std::is_signed_v<T> && std::is_integral_v<T>) return Scalar(static_cast<int64_t>(value));
}

absl::StatusOr<Scalar> ReadScalar(Reader* in, GgufType type, absl::string_view what) {
  switch (type) {
    case GgufType::kU8:
      return ReadNumber<uint8_t>(in, what);
    case GgufType::kI8:
      return ReadNumber<int8_t>(in, what);
    case GgufType::kU16:
      return ReadNumber<uint16_t>(in, what);
    case GgufType::kI16:
      return ReadNumber<int16_t>(in, what);
    case GgufType::kU32:
      return ReadNumber<uint32_t>(in, what);
    case GgufType::kI32:
      return ReadNumber<int32_t>(in, what);
    case GgufType::kU64:
      return ReadNumber<uint64_t>(in, what);
    case GgufType::kI64:
      return ReadNumber<int64_t>(in, what);
    case GgufType::kF32:
      return ReadNumber<float>(in, what);
    case GgufType::kF64:
      return ReadNumber<double>(in, what);
    case GgufType::kBool: {
      ASSIGN_OR_RETURN(const uint8_t byte, in->Read<uint8_t>(what));
      if (byte > 1) return Bad(what, " has bool byte ", int{byte}, "; 0 or 1 is allowed");  // [4]
      return Scalar(byte == 1);
    }
    case GgufType::kString: {
      ASSIGN_OR_RETURN(const absl::string_view text, in->ReadString(what));
      return Scalar(text);
    }
    case GgufType::kArray:
      break;
  }
  return Bad(what, " has value type id ", static_cast<int32_t>(type), "; 0 to 12 are allowed");  // [4]
}

absl::Status AppendElement(const Scalar& element, absl::string_view what, GgufValue* out) {
  if (const auto* text = std::get_if<absl::string_view>(&element)) {
    out->strings.push_back(*text);
  } else if (const auto* number = std::get_if<double>(&element)) {
    out->floats.push_back(*number);
  } else if (const auto* big = std::get_if<uint64_t>(&element)) {
    if (*big > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return absl::UnimplementedError(
          absl::StrCat("GGUF: ", what, " holds ", *big, "; arrays of integers above 2^63-1 are not read"));
    }
    out->integers.push_back(static_cast<int64_t>(*big));
  } else if (const auto* integer = std::get_if<int64_t>(&element)) {
    out->integers.push_back(*integer);
  } else {
    out->integers.push_back(std::get<bool>(element) ? 1 : 0);
  }
  return absl::OkStatus();
}

absl::Status ReadArray(Reader* in, absl::string_view what, GgufValue* out) {
  ASSIGN_OR_RETURN(const int32_t element_id, in->Read<int32_t>(what));
  out->element_type = static_cast<GgufType>(element_id);
  if (out->element_type == GgufType::kArray) return Bad(what, " is an array of arrays, which is not allowed");  // [5]
  if (element_id < 0 || element_id > static_cast<int32_t>(GgufType::kF64)) {
    return Bad(what, " has array element type id ", element_id, "; 0 to 12 without 9 are allowed");
  }
  ASSIGN_OR_RETURN(const uint64_t count, in->Read<uint64_t>(what));
  if (count > kMaxLength) return Bad(what, " has ", count, " elements; at most ", kMaxLength, " are allowed");
  // A string takes at least its length field.
  const uint64_t element_bytes = std::max<uint64_t>(GgufTypeBytes(out->element_type), 1) *
                                 (out->element_type == GgufType::kString ? sizeof(uint64_t) : 1);
  if (count > in->left() / element_bytes) {
    return Bad(what, " has ", count, " elements of at least ", element_bytes, " bytes, but only ", in->left(),
               " bytes are left");
  }
  const auto size = static_cast<size_t>(count);
  switch (out->element_type) {
    case GgufType::kString:
      out->strings.reserve(size);
      break;
    case GgufType::kF32:
    case GgufType::kF64:
      out->floats.reserve(size);
      break;
    default:
      out->integers.reserve(size);
  }
  for (size_t i = 0; i < size; ++i) {
    ASSIGN_OR_RETURN(const Scalar element, ReadScalar(in, out->element_type, what));
    RETURN_IF_ERROR(AppendElement(element, what, out));
  }
  return absl::OkStatus();
}

}  // namespace

// Fills a Gguf from front to back.
class GgufParser {
 public:
  explicit GgufParser(std::span<const uint8_t> bytes) : bytes_(bytes), in_(bytes) {}

  absl::StatusOr<Gguf> Parse() {
    RETURN_IF_ERROR(ParseHeader());
    for (uint64_t i = 0; i < num_keys_; ++i) RETURN_IF_ERROR(ParseKey(i));
    RETURN_IF_ERROR(ParseAlignment());
    for (uint64_t i = 0; i < num_tensors_; ++i) RETURN_IF_ERROR(ParseTensor(i));
    RETURN_IF_ERROR(PlaceTensors());
    return std::move(out_);
  }

 private:
  // What the tensor's entry says about its data; the bytes themselves come after all entries.
  struct Placement {
    uint64_t offset;
    uint64_t bytes;
  };

  absl::Status ParseHeader() {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {  // [1]
      const size_t shown = std::min<size_t>(bytes_.size(), 4);
      return Bad("not a GGUF file: it begins with ",
                 Quoted(absl::string_view(reinterpret_cast<const char*>(bytes_.data()), shown)), " instead of 'GGUF'");
    }
    RETURN_IF_ERROR(in_.Read<uint32_t>("the magic").status());
    ASSIGN_OR_RETURN(const uint32_t version, in_.Read<uint32_t>("the version"));
    if (version == 0) return Bad("version is 0; 2 and 3 are allowed");
    if ((version & 0xFFFFu) == 0) {
      return absl::UnimplementedError(absl::StrFormat(
          "GGUF: version reads as 0x%08x: the file is big-endian, only little-endian files are read", version));
    }
    if (version != 2 && version != 3) {
      return absl::UnimplementedError(absl::StrCat("GGUF: version is ", version, "; 2 and 3 can be read"));
    }
    out_.version_ = static_cast<int>(version);
    ASSIGN_OR_RETURN(num_tensors_, in_.Read<uint64_t>("the tensor count"));
    ASSIGN_OR_RETURN(num_keys_, in_.Read<uint64_t>("the key count"));
    if (num_tensors_ > in_.left() / kMinTensorBytes) {  // [2]
      return Bad("tensor count is ", num_tensors_, ", but the ", in_.left(), " bytes left cannot hold that many");
    }
    if (num_keys_ > in_.left() / kMinKeyBytes) {
      return Bad("key count is ", num_keys_, ", but the ", in_.left(), " bytes left cannot hold that many");
    }
    return absl::OkStatus();
  }

  absl::Status ParseKey(uint64_t index) {
    ASSIGN_OR_RETURN(const absl::string_view key, in_.ReadString(absl::StrCat("the name of key ", index)));
    if (key.empty()) return Bad("key ", index, " has an empty name");  // [4]
    const std::string what = absl::StrCat("key ", Quoted(key));
    ASSIGN_OR_RETURN(const int32_t type_id, in_.Read<int32_t>(what));
    GgufValue value{};
    value.type = static_cast<GgufType>(type_id);
    if (value.type == GgufType::kArray) {
      RETURN_IF_ERROR(ReadArray(&in_, what, &value));
    } else {
      ASSIGN_OR_RETURN(value.scalar, ReadScalar(&in_, value.type, what));
    }
    if (!out_.values_.try_emplace(std::string(key), std::move(value)).second) return Bad(what, " occurs twice");
    out_.keys_.emplace_back(key);
    return absl::OkStatus();
  }

  absl::Status ParseAlignment() {
    ASSIGN_OR_RETURN(const int64_t alignment,
                     out_.GetIntOr("general.alignment", 32, 1, std::numeric_limits<uint32_t>::max()));
    if (!std::has_single_bit(static_cast<uint64_t>(alignment))) {  // [6]
      return Bad("key 'general.alignment' is ", alignment, "; a power of two is wanted");
    }
    out_.alignment_ = static_cast<size_t>(alignment);
    return absl::OkStatus();
  }

  absl::Status ParseTensor(uint64_t index) {
    ASSIGN_OR_RETURN(const absl::string_view name, in_.ReadString(absl::StrCat("the name of tensor ", index)));
    if (name.empty()) return Bad("tensor ", index, " has an empty name");  // [7]
    const std::string what = absl::StrCat("tensor ", Quoted(name));
    if (name.size() > kMaxTensorName) {
      return Bad(what, " has a name of ", name.size(), " bytes; at most ", kMaxTensorName, " are allowed");
    }
    GgufTensor tensor;
    tensor.name = std::string(name);
    RETURN_IF_ERROR(ParseDims(what, &tensor));
    ASSIGN_OR_RETURN(const int32_t type_id, in_.Read<int32_t>(what));
    Placement placement{};
    ASSIGN_OR_RETURN(placement.bytes, TensorBytes(what, type_id, tensor));
    tensor.type = static_cast<kernels::DType>(type_id);
    ASSIGN_OR_RETURN(placement.offset, in_.Read<uint64_t>(what));
    if (!out_.tensor_index_.try_emplace(tensor.name, out_.tensors_.size()).second) return Bad(what, " occurs twice");
    out_.tensors_.push_back(std::move(tensor));
    placements_.push_back(placement);
    return absl::OkStatus();
  }

  absl::Status ParseDims(absl::string_view what, GgufTensor* tensor) {
    ASSIGN_OR_RETURN(const uint32_t num_dims, in_.Read<uint32_t>(what));
    if (num_dims > kMaxDims) {  // [8]
      return Bad(what, " has ", num_dims, " dimensions; at most ", kMaxDims, " are allowed");
    }
    int64_t elements = 1;
    for (uint32_t i = 0; i < num_dims; ++i) {
      ASSIGN_OR_RETURN(const int64_t dim, in_.Read<int64_t>(what));
      if (dim < 1) return Bad(what, " has dimension ", i, " = ", dim, "; at least 1 is wanted");
      if (__builtin_mul_overflow(elements, dim, &elements)) {
        return Bad(what, " has more than 2^63-1 elements (dimension ", i, " = ", dim, ")");
      }
      tensor->dims.push_back(dim);
    }
    if (tensor->dims.empty()) tensor->dims.push_back(1);  // the format's way to write a single number
    return absl::OkStatus();
  }

  static absl::StatusOr<uint64_t> TensorBytes(absl::string_view what, int32_t type_id, const GgufTensor& tensor) {
    const char* type_name = FormatTensorTypeName(type_id);
    if (type_name == nullptr) return Bad(what, " has type id ", type_id, ", which the format does not define");  // [9]
    const kernels::DTypeInfo* info = kernels::FindDType(type_id);
    if (info == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("GGUF: ", what, " has type ", type_name, ", which this build cannot read"));
    }
    if (tensor.cols() % info->block_elements != 0) {
      return Bad(what, " has rows of ", tensor.cols(), " elements; type ", type_name, " needs a multiple of ",
                 info->block_elements);
    }
    int64_t bytes = 0;
    if (__builtin_mul_overflow(tensor.num_elements() / info->block_elements, int64_t{info->block_bytes}, &bytes)) {
      return Bad(what, " of ", tensor.num_elements(), " elements of type ", type_name, " has more than 2^63-1 bytes");
    }
    return static_cast<uint64_t>(bytes);
  }

  // `value` rounded up to the alignment. No overflow: callers pass sums that lie in the file, so far below 2^63.
  uint64_t Padded(uint64_t value) const {
    const uint64_t mask = out_.alignment_ - 1;
    return (value + mask) & ~mask;
  }

  absl::Status PlaceTensors() {
    if (out_.tensors_.empty()) return absl::OkStatus();  // a vocabulary alone need not be padded
    const uint64_t data_begin = Padded(in_.position());
    if (data_begin > bytes_.size()) {
      return Bad("the file ends at ", bytes_.size(), ", before its data section at ", data_begin);
    }
    const std::span<const uint8_t> data = bytes_.subspan(static_cast<size_t>(data_begin));
    uint64_t expected = 0;
    for (size_t i = 0; i < placements_.size(); ++i) {
      const Placement& p = placements_[i];
      const std::string what = absl::StrCat("tensor ", Quoted(out_.tensors_[i].name));
      if (p.offset != expected) {  // [10]
        return Bad(what, " has offset ", p.offset, "; the tensors before it end at ", expected);
      }
      if (p.offset > data.size() || p.bytes > data.size() - p.offset) {
        return Bad(what, " needs ", p.bytes, " bytes at offset ", p.offset, ", but the data section has ", data.size());
      }
      out_.tensors_[i].data = data.subspan(static_cast<size_t>(p.offset), static_cast<size_t>(p.bytes));
      expected = Padded(p.offset + p.bytes);
    }
    return absl::OkStatus();
  }

  std::span<const uint8_t> bytes_;
  Reader in_;
  Gguf out_;
  uint64_t num_tensors_ = 0;
  uint64_t num_keys_ = 0;
  std::vector<Placement> placements_;
};

absl::StatusOr<Gguf> Gguf::Parse(std::span<const uint8_t> bytes) { return GgufParser(bytes).Parse(); }

}  // namespace dunlin::model
