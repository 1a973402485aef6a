#include "base/process.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace dunlin {
namespace {

TEST(Process, AFileIsReplacedWholeOrNotAtAll) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/process_test_", getpid());
  for (const std::string content : {"{}\n", "", "longer than before\n"}) {
    ASSERT_TRUE(WriteFileAtomically(path, content).ok());
    std::ifstream in(path);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), content);
  }
  std::remove(path.c_str());
  const absl::Status failed = WriteFileAtomically("/nowhere/file", "x");
  EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(failed.message()), ::testing::HasSubstr("/nowhere/file"));
}

TEST(Process, AWaitForSignalsCanBeEndedEarly) {
  ASSERT_TRUE(TerminationSignals::Install(/*supervised=*/false).ok());
  TerminationSignals::Wake();  // kept for the next Wait, which would last an hour
  EXPECT_FALSE(TerminationSignals::Wait(std::chrono::hours(1)));
  EXPECT_FALSE(TerminationSignals::Wait(std::chrono::milliseconds(0)));
  TerminationSignals::Arm();
  ASSERT_EQ(raise(SIGTERM), 0);
  EXPECT_TRUE(TerminationSignals::Wait(std::chrono::hours(1)));
}

}  // namespace
}  // namespace dunlin
