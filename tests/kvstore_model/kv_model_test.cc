// A million random operations on tiny stores, each compared with the naive model; and that the comparison can fail.
// DUNLIN_SEED=n runs one seed alone and prints its operations; DUNLIN_MODEL_OPERATIONS=n sets how many operations.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kvstore_model/faulty_store.h"
#include "tests/kvstore_model/kv_world.h"

namespace dunlin::testing {
namespace {

#ifdef DUNLIN_SANITIZED
constexpr uint64_t kOperations = 60'000;
constexpr uint64_t kSeedsRunAgain = 15;
#else
constexpr uint64_t kOperations = 1'100'000;
constexpr uint64_t kSeedsRunAgain = 60;
#endif

#ifdef DUNLIN_SANITIZED
constexpr int kDeadly[] = {SIGABRT};  // the sanitizers tell more of the others
#else
constexpr int kDeadly[] = {SIGABRT, SIGSEGV};
#endif
volatile std::sig_atomic_t current_seed = 0;

// A CHECK of the store aborts, and what is worse crashes: say which seed it was.
extern "C" void PrintSeed(int signal) {
  char text[64];
  const int n = std::snprintf(text, sizeof(text), "died in seed %d (DUNLIN_SEED=%d)\n", static_cast<int>(current_seed),
                              static_cast<int>(current_seed));
  if (n > 0 && ::write(STDERR_FILENO, text, static_cast<size_t>(n)) < 0) std::_Exit(3);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

std::vector<uint8_t> Bytes(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(random() % 4 == 0 ? 100 + random() % 400 : 1000 + random() % 4000);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random() >> 33);
  return bytes;
}

KvWorldOptions OptionsOf(uint64_t seed) {
  KvWorldOptions options;
  if (seed % 4 == 0) options.hash_mask = 0;  // every key collides
  return options;
}

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Runs one seed; on a difference runs it again for the operations that led there.
std::string RunSeed(uint64_t seed, Coverage* coverage, bool print_all) {
  current_seed = static_cast<std::sig_atomic_t>(seed);
  const std::vector<uint8_t> bytes = Bytes(seed);
  KvWorldOptions options = OptionsOf(seed);
  options.log = print_all;
  KvWorld world(bytes, options);
  std::string error = world.Run();
  if (error.empty() && !print_all) {
    for (size_t i = 0; i < coverage->size(); ++i) (*coverage)[i] += world.coverage()[i];
    return "";
  }
  options.log = true;
  KvWorld again(bytes, options);
  again.Run();
  const size_t first = print_all || again.log().size() < 40 ? 0 : again.log().size() - 40;
  for (size_t i = first; i < again.log().size(); ++i) std::printf("%s\n", again.log()[i].c_str());
  return error;
}

TEST(KvModel, RandomOperationsAgreeWithTheNaiveModel) {
  for (const int signal : kDeadly) std::signal(signal, PrintSeed);
  const uint64_t only = FromEnvironment("DUNLIN_SEED", 0);
  Coverage coverage{};
  if (only != 0) {
    EXPECT_EQ(RunSeed(only, &coverage, /*print_all=*/true), "");
    return;
  }
  const uint64_t operations = FromEnvironment("DUNLIN_MODEL_OPERATIONS", kOperations);
  uint64_t seed = 0;
  while (coverage[0] < operations) {
    ++seed;
    const std::string error = RunSeed(seed, &coverage, /*print_all=*/false);
    ASSERT_EQ(error, "") << "seed " << seed << "; alone: DUNLIN_SEED=" << seed
                         << " kv_model_test --gtest_filter=KvModel.RandomOperationsAgreeWithTheNaiveModel";
  }
  std::printf("%llu seeds\n", static_cast<unsigned long long>(seed));
  for (size_t i = 0; i < coverage.size(); ++i) {
    std::printf("%12llu  %s\n", static_cast<unsigned long long>(coverage[i]), kSeenNames[i]);
    EXPECT_GT(coverage[i], 0u) << kSeenNames[i] << " never happened";
  }
  for (const int signal : kDeadly) std::signal(signal, SIG_DFL);
}

TEST(KvModel, EqualBytesGiveEqualRunsAndCollisionsChangeNothing) {
  for (uint64_t seed = 1; seed <= kSeedsRunAgain; ++seed) {
    const std::vector<uint8_t> bytes = Bytes(seed);
    uint64_t digest = 0;
    for (const uint64_t mask : {~uint64_t{0}, ~uint64_t{0}, uint64_t{0}, uint64_t{3}}) {
      KvWorldOptions options;
      options.hash_mask = mask;
      KvWorld world(bytes, options);
      ASSERT_EQ(world.Run(), "") << "seed " << seed;
      if (digest == 0) digest = world.digest();
      EXPECT_EQ(world.digest(), digest) << "seed " << seed << " mask " << mask;
    }
  }
}

class KvModelFault : public ::testing::TestWithParam<size_t> {};

TEST_P(KvModelFault, IsFound) {
  const Fault fault = static_cast<Fault>(GetParam());
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    KvWorldOptions options;
    options.create = [fault](const kv::KvOptions& o) { return std::make_unique<FaultyStore>(o, fault); };
    const std::vector<uint8_t> bytes = Bytes(seed);
    KvWorld world(bytes, options);
    if (!world.Run().empty()) return;
  }
  FAIL() << "300 seeds did not notice";
}

INSTANTIATE_TEST_SUITE_P(Planted, KvModelFault, ::testing::Range(size_t{0}, static_cast<size_t>(Fault::kCount)),
                         [](const auto& fault) { return kFaultNames[fault.param]; });

}  // namespace
}  // namespace dunlin::testing
