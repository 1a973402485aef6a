// Always-on assertions for our own broken invariants: they print both values and abort.
// Never use them on input from outside (clients, files, peers): that is an absl::Status.
// Thread-safety: thread-safe.  Depends on the standard library alone, so that kernels/ needs no Abseil.
// Names and semantics follow Abseil's later absl/log/check.h, so this file can be deleted one day.
#ifndef DUNLIN_BASE_CHECK_H_
#define DUNLIN_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <ostream>
#include <sstream>
#include <string>
#include <type_traits>

namespace dunlin::check_internal {

// Collects the streamed message and aborts in its destructor.
class Failure {
 public:
  Failure(const char* file, int line, const char* what, const std::string* values) {
    stream_ << file << ':' << line << ": check failed: " << what;
    if (values != nullptr) stream_ << " (" << *values << ')';
    stream_ << ' ';
  }
  Failure(const Failure&) = delete;
  Failure& operator=(const Failure&) = delete;
  [[noreturn]] ~Failure() {
    std::fprintf(stderr, "%s\n", stream_.str().c_str());
    std::fflush(stderr);
    std::abort();
  }
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Lets the ternary of CHECK have type void on both sides; binds weaker than <<.
struct Voidify {
  void operator&(std::ostream&) const {}
};

template <typename T>
void Print(std::ostream& out, const T& v) {
  if constexpr (requires { out << v; }) {
    if constexpr (std::is_same_v<T, char> || std::is_same_v<T, signed char> || std::is_same_v<T, unsigned char>) {
      out << static_cast<int>(v);
    } else {
      out << v;
    }
  } else if constexpr (std::is_enum_v<T>) {
    out << static_cast<long long>(v);
  } else {
    out << '?';
  }
}

template <typename A, typename B>
std::unique_ptr<std::string> Values(const A& a, const B& b) {
  std::ostringstream out;
  Print(out, a);
  out << " vs. ";
  Print(out, b);
  return std::make_unique<std::string>(out.str());
}

#define DUNLIN_DEFINE_CHECK_OP(name, op)                             \
  template <typename A, typename B>                                  \
  std::unique_ptr<std::string> Check##name(const A& a, const B& b) { \
    if (a op b) [[likely]]                                           \
      return nullptr;                                                \
    return Values(a, b);                                             \
  }
DUNLIN_DEFINE_CHECK_OP(Eq, ==)
DUNLIN_DEFINE_CHECK_OP(Ne, !=)
DUNLIN_DEFINE_CHECK_OP(Lt, <)
DUNLIN_DEFINE_CHECK_OP(Le, <=)
DUNLIN_DEFINE_CHECK_OP(Gt, >)
DUNLIN_DEFINE_CHECK_OP(Ge, >=)
#undef DUNLIN_DEFINE_CHECK_OP

}  // namespace dunlin::check_internal

#define CHECK(condition)                              \
  (condition) ? (void)0                               \
              : ::dunlin::check_internal::Voidify() & \
                    ::dunlin::check_internal::Failure(__FILE__, __LINE__, #condition, nullptr).stream()

#define DUNLIN_CHECK_OP(name, op, a, b)                                              \
  while (auto dunlin_check_values = ::dunlin::check_internal::Check##name((a), (b))) \
  ::dunlin::check_internal::Failure(__FILE__, __LINE__, #a " " #op " " #b, dunlin_check_values.get()).stream()

#define CHECK_EQ(a, b) DUNLIN_CHECK_OP(Eq, ==, a, b)
#define CHECK_NE(a, b) DUNLIN_CHECK_OP(Ne, !=, a, b)
#define CHECK_LT(a, b) DUNLIN_CHECK_OP(Lt, <, a, b)
#define CHECK_LE(a, b) DUNLIN_CHECK_OP(Le, <=, a, b)
#define CHECK_GT(a, b) DUNLIN_CHECK_OP(Gt, >, a, b)
#define CHECK_GE(a, b) DUNLIN_CHECK_OP(Ge, >=, a, b)

// Debug-only forms for hot loops; the operands are not evaluated in release builds.
#ifdef NDEBUG
#define DUNLIN_DCHECK_OFF(condition) \
  while (false && static_cast<bool>(condition)) (void)0
#define DCHECK(condition) DUNLIN_DCHECK_OFF(condition)
#define DCHECK_EQ(a, b) DUNLIN_DCHECK_OFF((a) == (b))
#define DCHECK_LT(a, b) DUNLIN_DCHECK_OFF((a) < (b))
#define DCHECK_LE(a, b) DUNLIN_DCHECK_OFF((a) <= (b))
#define DCHECK_GE(a, b) DUNLIN_DCHECK_OFF((a) >= (b))
#else
#define DCHECK(condition) CHECK(condition)
#define DCHECK_EQ(a, b) CHECK_EQ(a, b)
#define DCHECK_LT(a, b) CHECK_LT(a, b)
#define DCHECK_LE(a, b) CHECK_LE(a, b)
#define DCHECK_GE(a, b) CHECK_GE(a, b)
#endif

#endif  // DUNLIN_BASE_CHECK_H_
