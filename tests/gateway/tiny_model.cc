#include "tests/gateway/tiny_model.h"

#include <cstdio>
#include <fstream>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/gguf_builder.h"
#include "unistd.h"

namespace dunlin::testing {
namespace {

const std::string& TinyModelBytes() {
  static const auto* const bytes = new std::string(BuildTinyLlama({}));
  return *bytes;
}

}  // namespace

const model::Tokenizer& TinyTokenizer() {
  static const model::Tokenizer* const tokenizer = [] {
    const std::string& bytes = TinyModelBytes();
    const auto gguf = model::Gguf::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    CHECK(gguf.ok()) << gguf.status().ToString();
    auto created = model::Tokenizer::Create(*gguf);
    CHECK(created.ok()) << created.status().ToString();
    return created->release();
  }();
  return *tokenizer;
}

std::vector<uint32_t> BytesAsTokens(absl::string_view text) {
  std::vector<uint32_t> ids;
  for (const char byte : text) ids.push_back(kFirstByteToken + static_cast<uint8_t>(byte));
  return ids;
}

TinyModelFile::TinyModelFile() {
  static int count = 0;
  path_ = absl::StrCat(::testing::TempDir(), "/tiny-", getpid(), "-", count++, ".gguf");
  std::ofstream out(path_, std::ios::binary);
  out << TinyModelBytes();
  out.close();
  CHECK(out.good()) << path_;
}

TinyModelFile::~TinyModelFile() { std::remove(path_.c_str()); }

}  // namespace dunlin::testing
