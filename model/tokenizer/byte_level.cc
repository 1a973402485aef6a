#include "model/tokenizer/byte_level.h"

#include <array>

#include "model/tokenizer/utf8.h"

namespace dunlin::model {
namespace {

constexpr int kFirstSubstitute = 0x100;
constexpr int kNumSubstitutes = 68;

// Spaces, controls and the soft hyphen have no printable form of their own.
bool IsPrintable(int byte) { return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD); }

struct Tables {
  std::array<std::string, 256> spelling;
  std::array<int16_t, kFirstSubstitute + kNumSubstitutes> byte_of;  // by code point; -1 = none

  Tables() {
    byte_of.fill(-1);
    int next = kFirstSubstitute;
    for (int byte = 0; byte < 256; ++byte) {
      const int code_point = IsPrintable(byte) ? byte : next++;
      byte_of[static_cast<size_t>(code_point)] = static_cast<int16_t>(byte);
      std::string& s = spelling[static_cast<size_t>(byte)];
      if (code_point < 0x80) {
        s = {static_cast<char>(code_point)};
      } else {
        s = {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3F))};
      }
    }
  }
};

const Tables& GetTables() {
  static const Tables& tables = *new Tables;  // never destroyed: other threads may outlive main's statics
  return tables;
}

}  // namespace

absl::string_view ByteSpelling(uint8_t byte) { return GetTables().spelling[byte]; }

std::string BytesOfSpelling(absl::string_view spelling) {
  const Tables& tables = GetTables();
  std::string bytes;
  for (size_t i = 0; i < spelling.size();) {
    const Utf8Sequence sequence = ScanUtf8(spelling.substr(i));
    if (sequence.kind != Utf8Kind::kValid || sequence.length > 2) return std::string(spelling);
    int code_point = static_cast<uint8_t>(spelling[i]);
    if (sequence.length == 2) code_point = ((code_point & 0x1F) << 6) | (spelling[i + 1] & 0x3F);
    const auto index = static_cast<size_t>(code_point);
    if (index >= tables.byte_of.size() || tables.byte_of[index] < 0) return std::string(spelling);
    bytes.push_back(static_cast<char>(tables.byte_of[index]));
    i += sequence.length;
  }
  return bytes;
}

}  // namespace dunlin::model
