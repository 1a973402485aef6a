// Status assertions that the packaged Abseil lacks. Thread-safety: test thread only.
#ifndef DUNLIN_TESTS_SUPPORT_STATUS_MATCHERS_H_
#define DUNLIN_TESTS_SUPPORT_STATUS_MATCHERS_H_

#include <ostream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dunlin::testing {

inline const absl::Status& GetStatus(const absl::Status& s) { return s; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& s) {
  return s.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << GetStatus(arg);
  return GetStatus(arg).ok();
}

// EXPECT_THAT(F(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("name")));
MATCHER_P2(StatusIs, code, message_matcher, "") {
  *result_listener << GetStatus(arg);
  return GetStatus(arg).code() == code && ::testing::Matches(message_matcher)(std::string(GetStatus(arg).message()));
}

#define EXPECT_OK(expr) EXPECT_THAT((expr), ::dunlin::testing::IsOk())
#define ASSERT_OK(expr) ASSERT_THAT((expr), ::dunlin::testing::IsOk())

#define DUNLIN_TEST_CONCAT_INNER(a, b) a##b
#define DUNLIN_TEST_CONCAT(a, b) DUNLIN_TEST_CONCAT_INNER(a, b)
#define ASSERT_OK_AND_ASSIGN(lhs, expr) DUNLIN_ASSERT_OK_AND_ASSIGN(DUNLIN_TEST_CONCAT(dunlin_or_, __LINE__), lhs, expr)
#define DUNLIN_ASSERT_OK_AND_ASSIGN(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  ASSERT_OK(tmp);                                   \
  lhs = *std::move(tmp)

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_STATUS_MATCHERS_H_
