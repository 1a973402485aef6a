#include "tests/support/test_data.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::testing {
namespace {

std::string IfExists(std::string path) { return std::filesystem::exists(path) ? path : std::string(); }

}  // namespace

std::string GoldenPath(absl::string_view name) { return absl::StrCat(DUNLIN_SOURCE_DIR, "/tests/golden/", name); }

std::string SharedDataPath(absl::string_view name) {
  if (const char* dir = std::getenv("DUNLIN_SHARED_DATA")) return IfExists(absl::StrCat(dir, "/", name));
  return IfExists(absl::StrCat(DUNLIN_SOURCE_DIR, "/../shared/data/", name));
}

std::string DefaultModelPath() {
  if (const char* path = std::getenv("DUNLIN_TEST_MODEL")) return IfExists(path);
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root = cache != nullptr ? cache : absl::StrCat(home != nullptr ? home : ".", "/.cache");
  return IfExists(absl::StrCat(root, "/dunlin/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good()) << "cannot read " << path;
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

template <typename T>
std::vector<T> ReadArray(const std::string& path) {
  const std::string bytes = ReadFile(path);
  CHECK_EQ(bytes.size() % sizeof(T), 0u) << path;
  std::vector<T> out(bytes.size() / sizeof(T));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

template std::vector<float> ReadArray<float>(const std::string&);
template std::vector<uint8_t> ReadArray<uint8_t>(const std::string&);
template std::vector<int8_t> ReadArray<int8_t>(const std::string&);
template std::vector<int16_t> ReadArray<int16_t>(const std::string&);
template std::vector<uint32_t> ReadArray<uint32_t>(const std::string&);

}  // namespace dunlin::testing
