// RETURN_IF_ERROR and ASSIGN_OR_RETURN: the only control-flow macros of the tree.
// Missing from the packaged Abseil (20220623); same meaning as in later open-source code.
#ifndef DUNLIN_BASE_STATUS_MACROS_H_
#define DUNLIN_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                                                           \
  do {                                                                                  \
    if (absl::Status dunlin_status = (expr); !dunlin_status.ok()) return dunlin_status; \
  } while (false)

#define DUNLIN_CONCAT_INNER(a, b) a##b
#define DUNLIN_CONCAT(a, b) DUNLIN_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(auto x, F()); declares or assigns x; returns F's status when it is an error.
#define ASSIGN_OR_RETURN(lhs, expr) DUNLIN_ASSIGN_OR_RETURN(DUNLIN_CONCAT(dunlin_or_, __LINE__), lhs, expr)
#define DUNLIN_ASSIGN_OR_RETURN(tmp, lhs, expr)  \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)

#endif  // DUNLIN_BASE_STATUS_MACROS_H_
