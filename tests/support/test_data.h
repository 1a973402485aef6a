// Where tests find their data. Our own golden data lives under tests/golden/; third-party files that are never
// committed (vocabularies, published chat templates, the default model) are looked up by environment variable and else
// beside the checkout, and a test that needs an absent one skips with its name. Thread-safety: thread-safe.
#ifndef DUNLIN_TESTS_SUPPORT_TEST_DATA_H_
#define DUNLIN_TESTS_SUPPORT_TEST_DATA_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace dunlin::testing {

// <checkout>/tests/golden/<name>. Always present.
std::string GoldenPath(absl::string_view name);

// $DUNLIN_SHARED_DATA/<name>, else <checkout>/../shared/data/<name>; "" when that file does not exist.
std::string SharedDataPath(absl::string_view name);

// The default model file: $DUNLIN_TEST_MODEL, else what tools/run cached; "" when absent.
std::string DefaultModelPath();

// The whole file; CHECK-fails when it cannot be read.
std::string ReadFile(const std::string& path);
// A file of little-endian T without a header; CHECK-fails when its size is not a multiple of sizeof(T).
template <typename T>
std::vector<T> ReadArray(const std::string& path);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_TEST_DATA_H_
