// The header is read event by event: what does not belong is refused where it stands, and no tree of JSON values is
// built from bytes that nobody vouches for. What is checked ([n] stands next to the code):
//   [1] the header's length against the file and the format's limit
//   [2] the header: one object of objects, no key twice, only dtype, shape and data_offsets, each of its type
//   [3] dtype: one that the format defines
//   [4] shape: at most 8 dimensions, the byte count within 63 bits
//   [5] data_offsets: begin <= end, end - begin = the bytes of dtype and shape
//   [6] the tensors tile the data exactly: no gap, no overlap, nothing behind
#include "model/safetensors/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("safetensors: ", args...));
}

struct DtypeBytes {
  const char* name;
  int64_t bytes;
};
constexpr DtypeBytes kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                                  {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                  {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};

// One tensor's entry as it was written.
struct Entry {
  SafeTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Takes the parser's events; a false return ends the parse, with the reason in status().
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  const absl::Status& status() const { return status_; }
  std::vector<Entry>& entries() { return entries_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool /*value*/) override { return Unexpected("a truth value"); }
  bool number_integer(int64_t /*value*/) override { return Unexpected("a negative number"); }
  bool number_float(double /*value*/, const std::string& /*text*/) override { return Unexpected("a fraction"); }
  bool binary(nlohmann::json::binary_t& /*value*/) override { return Unexpected("binary data"); }
  bool number_unsigned(uint64_t value) override {
    if (place_ == Place::kShape) {
      if (value > static_cast<uint64_t>(INT64_MAX)) return Fail(Bad(What(), " has a dimension of ", value));
      if (entry().tensor.shape.size() == SafeTensors::kMaxDims) {  // [4]
        return Fail(Bad(What(), " has more than ", SafeTensors::kMaxDims, " dimensions"));
      }
      entry().tensor.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets && offsets_ < 2) {
      (offsets_++ == 0 ? entry().begin : entry().end) = value;
      return true;
    }
    return Unexpected("a number");
  }
  bool string(std::string& value) override {
    if (place_ == Place::kMetadataValue) {
      place_ = Place::kMetadata;
      return true;
    }
    if (place_ != Place::kDtype) return Unexpected("a text");
    entry().tensor.dtype = value;
    place_ = Place::kTensor;
    return true;
  }
  bool start_object(size_t /*elements*/) override {
    if (place_ == Place::kStart) return Move(Place::kTop);
    if (place_ == Place::kTensorValue) return Move(Place::kTensor);
    if (place_ == Place::kMetadataStart) return Move(Place::kMetadata);
    return Unexpected("an object");
  }
  bool key(std::string& name) override;
  bool end_object() override {
    if (place_ == Place::kMetadata) return Move(Place::kTop);
    if (place_ == Place::kTop) return Move(Place::kEnd);
    if (place_ != Place::kTensor || fields_ != 7) return Fail(Bad(What(), " lacks dtype, shape or data_offsets"));
    return Move(Place::kTop);
  }
  bool start_array(size_t /*elements*/) override {
    if (place_ == Place::kShapeStart) return Move(Place::kShape);
    if (place_ == Place::kOffsetsStart) return Move(Place::kOffsets);
    return Unexpected("an array");
  }
  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_ != 2) return Fail(Bad(What(), " has ", offsets_, " of 2 data_offsets"));
    return Move(Place::kTensor);
  }
  bool parse_error(size_t position, const std::string& /*token*/, const nlohmann::json::exception& /*error*/) override {
    return Fail(Bad("the header is no JSON from byte ", position, " on"));
  }

 private:
  // Where in the header the parser stands; ...Start and ...Value: a key was read, what belongs to it comes next.
  enum class Place {
    kStart,
    kTop,
    kMetadataStart,
    kMetadata,
    kMetadataValue,
    kTensorValue,
    kTensor,
    kDtype,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
    kEnd
  };

  Entry& entry() { return entries_.back(); }
  std::string What() const {
    return entries_.empty() ? "the header" : absl::StrCat("tensor ", Quoted(entries_.back().tensor.name));
  }
  bool Move(Place place) {
    place_ = place;
    return true;
  }
  bool Fail(absl::Status status) {
    status_ = std::move(status);
    return false;
  }
  bool Unexpected(absl::string_view found) { return Fail(Bad(What(), ": ", found, " does not belong there")); }

  Place place_ = Place::kStart;
  int fields_ = 0;  // bits: dtype, shape, data_offsets were seen
  int offsets_ = 0;
  bool metadata_ = false;
  std::vector<Entry> entries_;
  absl::Status status_;
};

bool HeaderReader::key(std::string& name) {
  if (place_ == Place::kMetadata) return Move(Place::kMetadataValue);
  if (place_ == Place::kTop) {
    if (name == "__metadata__") {
      if (std::exchange(metadata_, true)) return Fail(Bad("__metadata__ occurs twice"));
      return Move(Place::kMetadataStart);
    }
    entries_.emplace_back();
    entry().tensor.name = name;
    fields_ = offsets_ = 0;
    return Move(Place::kTensorValue);
  }
  struct Field {
    const char* name;
    Place place;
  };
  constexpr Field kFields[] = {
      {"dtype", Place::kDtype}, {"shape", Place::kShapeStart}, {"data_offsets", Place::kOffsetsStart}};
  for (int i = 0; i < 3; ++i) {
    if (name != kFields[i].name) continue;
    if ((fields_ & (1 << i)) != 0) return Fail(Bad(What(), " has ", name, " twice"));  // [2]
    fields_ |= 1 << i;
    return Move(kFields[i].place);
  }
  return Fail(Bad(What(), " has the unknown field ", Quoted(name)));
}

absl::StatusOr<int64_t> BytesOf(const SafeTensor& t) {
  for (const DtypeBytes& d : kDtypes) {
    if (t.dtype != d.name) continue;
    int64_t bytes = d.bytes;
    for (const int64_t dim : t.shape) {  // [4]
      if (__builtin_mul_overflow(bytes, dim, &bytes)) {
        return Bad("tensor ", Quoted(t.name), " has more than 2^63-1 bytes");
      }
    }
    return bytes;
  }
  return absl::UnimplementedError(  // [3]
      absl::StrCat("safetensors: tensor ", Quoted(t.name), " has dtype ", Quoted(t.dtype), ", which is not known"));
}

}  // namespace

int64_t SafeTensor::num_elements() const {
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  return n;
}

const SafeTensor* SafeTensors::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

absl::StatusOr<SafeTensors> SafeTensors::Parse(std::span<const uint8_t> bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) return Bad("the file has ", bytes.size(), " bytes, too few for a header");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  bytes = bytes.subspan(sizeof header_bytes);
  if (header_bytes > std::min(bytes.size(), kMaxHeaderBytes)) {  // [1]
    return Bad("the header is said to have ", header_bytes, " bytes; the file has ", bytes.size(), " more, and ",
               kMaxHeaderBytes, " are allowed");
  }
  const std::span<const uint8_t> data = bytes.subspan(static_cast<size_t>(header_bytes));
  const char* header = reinterpret_cast<const char*>(bytes.data());
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header, header + header_bytes, &reader)) return reader.status();  // [2]

  std::vector<Entry>& entries = reader.entries();
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  SafeTensors out;
  uint64_t expected = 0;
  for (Entry& e : entries) {
    ASSIGN_OR_RETURN(const int64_t want, BytesOf(e.tensor));
    const std::string what = absl::StrCat("tensor ", Quoted(e.tensor.name));
    if (e.begin != expected || e.end < e.begin || e.end - e.begin != static_cast<uint64_t>(want)) {  // [5] [6]
      return Bad(what, " has data_offsets ", e.begin, ", ", e.end, "; ", want, " bytes from ", expected, " are wanted");
    }
    if (e.end > data.size()) return Bad(what, " ends at ", e.end, ", but the data has ", data.size(), " bytes");
    e.tensor.data = data.subspan(static_cast<size_t>(e.begin), static_cast<size_t>(want));
    expected = e.end;
    if (!out.index_.try_emplace(e.tensor.name, out.tensors_.size()).second) return Bad(what, " occurs twice");
    out.tensors_.push_back(std::move(e.tensor));
  }
  if (expected != data.size())
    return Bad("the tensors end at ", expected, ", but the data has ", data.size(), " bytes");
  return out;
}

}  // namespace dunlin::model
