#include "model/gguf/gguf_types.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace dunlin::model {
namespace {

struct ValueTypeRow {
  const char* name;
  size_t bytes;
};
constexpr ValueTypeRow kValueTypes[] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                                        {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0},
                                        {"u64", 8}, {"i64", 8}, {"f64", 8}};

// By tensor type id; nullptr where an id was removed from the format.
constexpr const char* kTensorTypes[] = {
    "F32",   "F16",    "Q4_0",  "Q4_1",  nullptr, nullptr,   "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",   "I64",     "F64",    "IQ1_M",   "BF16",  nullptr,  nullptr,
    nullptr, "TQ1_0",  "TQ2_0", nullptr, nullptr, nullptr,   "MXFP4",  "NVFP4",   "Q1_0",  "Q2_0"};

template <typename T, size_t N>
constexpr bool InTable(const T (&)[N], int32_t id) {
  return id >= 0 && static_cast<size_t>(id) < N;
}

}  // namespace

const char* GgufTypeName(GgufType type) {
  const auto id = static_cast<int32_t>(type);
  return InTable(kValueTypes, id) ? kValueTypes[id].name : "?";
}

size_t GgufTypeBytes(GgufType type) {
  const auto id = static_cast<int32_t>(type);
  return InTable(kValueTypes, id) ? kValueTypes[id].bytes : 0;
}

const char* FormatTensorTypeName(int32_t type_id) {
  return InTable(kTensorTypes, type_id) ? kTensorTypes[type_id] : nullptr;
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kMaxBytes = 64;
  const bool cut = text.size() > kMaxBytes;
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kMaxBytes)), cut ? "...'" : "'");
}

}  // namespace dunlin::model
