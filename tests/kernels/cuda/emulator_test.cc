// The emulator finds what it is there to find: each broken kernel here fails, or gives a wrong result under one of a
// few seeds, and its correct twin passes under all of them.
#include "kernels/cuda/emulator/emulator.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr uint64_t kSeeds = 20;
using Words = std::vector<uint32_t>;

// A kernel of one block that makes words of words, for each seed on a device that has not failed.
struct Outcome {
  int right = 0;      // seeds under which the words are those wanted
  int failed = 0;     // seeds under which the launch failed
  std::string error;  // of the last that failed
};
using Kernel = void (*)(const uint32_t*, uint32_t*);
Outcome RunAll(Kernel kernel, int threads, size_t shared_bytes, const Words& in, const Words& want) {
  Outcome outcome;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    std::string why;
    const std::unique_ptr<Device> device = Device::Open(0, &why);
    const DeviceBuffer<uint32_t> from(device.get(), in.size()), to(device.get(), want.size());
    Words got(want.size());
    device->CopyToDevice(from.data(), in.data(), from.bytes());
    emulator::SetSeed(seed);
    DUNLIN_LAUNCH(device.get(), (LaunchConfig{.threads = threads, .shared_bytes = shared_bytes}), kernel, from.data(),
                  to.data());
    if (device->ok()) {
      device->CopyToHost(got.data(), to.data(), to.bytes());
      outcome.right += got == want ? 1 : 0;
    } else {
      ++outcome.failed;
      outcome.error = device->error();
    }
  }
  return outcome;
}

void ExpectRight(Kernel kernel, int threads, size_t shared_bytes, const Words& in, const Words& want) {
  const Outcome outcome = RunAll(kernel, threads, shared_bytes, in, want);
  EXPECT_EQ(outcome.right, kSeeds) << outcome.error;
}
void ExpectWrong(Kernel kernel, int threads, size_t shared_bytes, const Words& in, const Words& want) {
  const Outcome outcome = RunAll(kernel, threads, shared_bytes, in, want);
  EXPECT_EQ(outcome.failed, 0) << outcome.error;
  EXPECT_LT(outcome.right, kSeeds);
}
// The launch fails under every seed, and says all of these.
void ExpectFailure(Kernel kernel, int threads, size_t shared_bytes, const std::vector<std::string>& says) {
  const Outcome outcome = RunAll(kernel, threads, shared_bytes, Words(4096, 7), Words(4096));
  EXPECT_EQ(outcome.failed, kSeeds);
  for (const std::string& part : says) {
    EXPECT_NE(outcome.error.find(part), std::string::npos) << '"' << outcome.error << "\" lacks \"" << part << '"';
  }
}

Words Numbers(uint32_t n) {
  Words words;
  for (uint32_t i = 0; i < n; ++i) words.push_back(i * 2654435761u);
  return words;
}
Words Reversed(Words words) { return {words.rbegin(), words.rend()}; }

uint32_t* SharedWords() { return reinterpret_cast<uint32_t*>(dev::Shared()); }

// ---- Order ----

template <bool kSync>
DUNLIN_KERNEL(64, 1)
void ReverseInShared(const uint32_t* in, uint32_t* out) {
  const int i = dev::ThreadX();
  SharedWords()[i] = in[i];
  if (kSync) dev::SyncThreads();
  out[i] = SharedWords()[63 - i];
}

TEST(EmulatorTest, AMissingSyncThreadsGivesAWrongResult) {
  const Words in = Numbers(64), want = Reversed(in);
  ExpectRight(ReverseInShared<true>, 64, 256, in, want);
  ExpectWrong(ReverseInShared<false>, 64, 256, in, want);
}

// A buffer that is written again while others still read it.
template <bool kSync>
DUNLIN_KERNEL(64, 1)
void SumOfRotations(const uint32_t* in, uint32_t* out) {
  const int i = dev::ThreadX();
  uint32_t sum = 0;
  for (int round = 0; round < 4; ++round) {
    SharedWords()[i] = in[64 * round + i];
    dev::SyncThreads();
    sum += SharedWords()[(i + 17) % 64];
    if (kSync) dev::SyncThreads();
  }
  out[i] = sum;
}

TEST(EmulatorTest, AMissingSyncThreadsBeforeTheNextWriteGivesAWrongResult) {
  const Words in = Numbers(256);
  Words want(64, 0);
  for (uint32_t i = 0; i < 256; ++i) want[i % 64] += in[i / 64 * 64 + (i % 64 + 17) % 64];
  ExpectRight(SumOfRotations<true>, 64, 256, in, want);
  ExpectWrong(SumOfRotations<false>, 64, 256, in, want);
}

// Each thread copies 16 bytes per stage for itself, three stages ahead of their use.
template <int kLeft>
DUNLIN_KERNEL(32, 1)
void StagedCopy(const uint32_t* in, uint32_t* out) {
  constexpr int kStages = 3, kRounds = 8;
  const int i = dev::ThreadX();
  const auto stage = [i](int round) { return SharedWords() + round % kStages * 128 + 4 * i; };
  const auto fetch = [&](int round) {
    if (round < kRounds) dev::CopyAsync16(stage(round), in + 128 * round + 4 * i, true);
    dev::CopyAsyncCommit();
  };
  for (int round = 0; round < kStages - 1; ++round) fetch(round);
  for (int round = 0; round < kRounds; ++round) {
    fetch(round + kStages - 1);
    dev::CopyAsyncWait<kLeft>();
    const dev::U4 v = dev::LoadShared16(stage(round));
    uint32_t* to = out + 128 * round + 4 * i;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }
}

TEST(EmulatorTest, AWaitOneGroupShortGivesAWrongResult) {
  const Words in = Numbers(1024);
  ExpectRight(StagedCopy<2>, 32, 3 * 512, in, in);
  ExpectRight(StagedCopy<0>, 32, 3 * 512, in, in);
  ExpectWrong(StagedCopy<3>, 32, 3 * 512, in, in);
}

template <bool kSync>
DUNLIN_KERNEL(32, 1)
void CopyForTheNeighbour(const uint32_t* in, uint32_t* out) {
  const int i = dev::ThreadX();
  dev::CopyAsync16(SharedWords() + 4 * i, in + 4 * i, i % 8 != 3);
  dev::CopyAsyncCommit();
  dev::CopyAsyncWait<0>();
  if (kSync) dev::SyncWarp();
  for (int k = 0; k < 4; ++k) out[4 * i + k] = SharedWords()[4 * (i ^ 1) + k];
}

TEST(EmulatorTest, AMissingSyncWarpBetweenAWaitAndAnotherLanesReadGivesAWrongResult) {
  const Words in = Numbers(128);
  Words want(128);
  for (uint32_t i = 0; i < 128; ++i) {
    const uint32_t lane = i / 4 ^ 1;
    want[i] = lane % 8 == 3 ? 0 : in[4 * lane + i % 4];  // zeros where a copy is not valid
  }
  ExpectRight(CopyForTheNeighbour<true>, 32, 512, in, want);
  ExpectWrong(CopyForTheNeighbour<false>, 32, 512, in, want);
}

// ---- Divergence ----

DUNLIN_KERNEL(64, 1) void TwoCollectives(const uint32_t* in, uint32_t* out) {
  const int i = dev::ThreadX();
  out[i] = dev::Lane() < 16 ? dev::Shuffle(in[i], 0) : dev::Ballot(in[i] > 3);
}
DUNLIN_KERNEL(64, 1) void TwoShuffles(const uint32_t* in, uint32_t* out) {
  const int i = dev::ThreadX();
  if (dev::Lane() < 16) {
    out[i] = dev::Shuffle(in[i], 0);
  } else {
    out[i] = static_cast<uint32_t>(dev::Shuffle(uint64_t{in[i]}, 0));
  }
}
DUNLIN_KERNEL(64, 1) void HalfAWarpLeaves(const uint32_t* in, uint32_t* out) {
  if (dev::ThreadX() >= 48) return;
  dev::SyncWarp();
  out[dev::ThreadX()] = in[dev::ThreadX()];
}
DUNLIN_KERNEL(64, 1) void OneThreadSkipsTheBarrier(const uint32_t* in, uint32_t* out) {
  if (dev::ThreadX() != 5) dev::SyncThreads();
  out[dev::ThreadX()] = in[dev::ThreadX()];
}
DUNLIN_KERNEL(64, 1) void OneThreadSkipsOneOfTwoBarriers(const uint32_t* in, uint32_t* out) {
  if (dev::ThreadX() != 5) dev::SyncThreads();
  out[dev::ThreadX()] = in[dev::ThreadX()];
  dev::SyncThreads();
}
DUNLIN_KERNEL(64, 1) void AWarpAtACollectiveAtTheBarrier(const uint32_t* in, uint32_t* out) {
  out[dev::ThreadX()] = in[dev::ThreadX()];
  if (dev::ThreadX() == 40) {
    dev::SyncWarp();
  } else {
    dev::SyncThreads();
  }
}

TEST(EmulatorTest, DivergenceFailsAndNamesBothPlaces) {
  ExpectFailure(TwoCollectives, 64, 0, {"Shuffle", "Ballot", "block (0, 0, 0)", "divergence"});
  ExpectFailure(TwoShuffles, 64, 0, {"Shuffle", "divergence"});
  ExpectFailure(HalfAWarpLeaves, 64, 0, {"SyncWarp", "its end", "divergence"});
  ExpectFailure(OneThreadSkipsTheBarrier, 64, 0, {"SyncThreads while thread 5 is at its end", "divergence"});
  ExpectFailure(OneThreadSkipsOneOfTwoBarriers, 64, 0, {"SyncThreads while thread 5 is at its end", "divergence"});
  ExpectFailure(AWarpAtACollectiveAtTheBarrier, 64, 0, {"SyncThreads", "SyncWarp", "divergence"});
}

// Warps need not keep step with each other, and lanes that all leave are missed by nobody.
DUNLIN_KERNEL(96, 1) void WarpsOnTheirOwn(const uint32_t* in, uint32_t* out) {
  uint32_t sum = in[dev::ThreadX()];
  for (int i = 0; i <= dev::Warp(); ++i) sum += dev::Shuffle(sum, i);
  if (dev::Warp() == 1) {
    out[dev::ThreadX()] = 0;
    return;
  }
  out[dev::ThreadX()] = sum + dev::Ballot(sum > 2);
}

TEST(EmulatorTest, WarpsMayDiverge) {
  const Words in(96, 1);
  Words want(96, 0);
  for (size_t i = 0; i < 32; ++i) want[i] = 2, want[64 + i] = 8 + 0xFFFFFFFFu;  // one sum doubled once, one three times
  ExpectRight(WarpsOnTheirOwn, 96, 0, in, want);
}

// ---- Memory ----

template <int kOffset>
DUNLIN_KERNEL(32, 1)
void LoadAt(const uint32_t* in, uint32_t* out) {
  SharedWords()[dev::ThreadX()] = in[dev::ThreadX()];
  dev::SyncWarp();
  out[dev::ThreadX()] = dev::LoadShared16(dev::Shared() + kOffset).x;
}
template <int kOffset>
DUNLIN_KERNEL(32, 1)
void Load8At(const uint32_t*, uint32_t* out) {
  out[dev::ThreadX()] = dev::LoadShared8(dev::Shared() + kOffset).x;
}
template <int kTo, int kFrom>
DUNLIN_KERNEL(32, 1)
void CopyAt(const uint32_t* in, uint32_t*) {
  dev::CopyAsync16(dev::Shared() + kTo, reinterpret_cast<const uint8_t*>(in) + kFrom, true);
}
template <int kOffset>
DUNLIN_KERNEL(32, 1)
void LdMatrixAt(const uint32_t*, uint32_t* out) {
  uint32_t r[4];
  dev::LdMatrix4(r, dev::Shared() + kOffset);
  out[dev::ThreadX()] = r[0];
}
template <int kOffset>
DUNLIN_KERNEL(32, 1)
void GlobalAt(const uint32_t* in, uint32_t* out) {
  const void* at = reinterpret_cast<const uint8_t*>(in) + kOffset;
  out[dev::ThreadX()] = dev::LoadGlobal16(at).x + dev::LoadStream16(at).x;
}
template <int kOffset>
DUNLIN_KERNEL(32, 1)
void StoreAt(const uint32_t*, uint32_t*) {
  *const_cast<volatile uint8_t*>(dev::Shared() + kOffset) = 1;
}

TEST(EmulatorTest, MisalignedAndOutsideAccessesFail) {
  ExpectFailure(LoadAt<4>, 32, 256, {"LoadShared16", "multiple of 16"});
  ExpectFailure(LoadAt<256>, 32, 256, {"LoadShared16", "outside", "256 bytes"});
  ExpectFailure(LoadAt<-16>, 32, 256, {"LoadShared16", "outside"});
  ExpectFailure(Load8At<4>, 32, 256, {"LoadShared8", "multiple of 8"});
  ExpectFailure(Load8At<256>, 32, 256, {"LoadShared8", "outside"});
  ExpectFailure(CopyAt<8, 0>, 32, 256, {"CopyAsync16 to", "multiple of 16"});
  ExpectFailure(CopyAt<0, 4>, 32, 256, {"CopyAsync16 from", "multiple of 16"});
  ExpectFailure(CopyAt<256, 0>, 32, 256, {"CopyAsync16 to", "outside"});
  ExpectFailure(LdMatrixAt<2>, 32, 256, {"LdMatrix4", "multiple of 16"});
  ExpectFailure(LdMatrixAt<256>, 32, 256, {"LdMatrix4", "outside"});
  ExpectFailure(GlobalAt<8>, 32, 0, {"LoadGlobal16", "multiple of 16"});
}

TEST(EmulatorDeathTest, APlainStoreBehindSharedMemoryStops) {
  std::string why;
  const std::unique_ptr<Device> device = Device::Open(0, &why);
  const LaunchConfig config{.threads = 32, .shared_bytes = 256};
  EXPECT_DEATH(DUNLIN_LAUNCH(device.get(), config, StoreAt<256>, nullptr, nullptr), "");
  DUNLIN_LAUNCH(device.get(), config, StoreAt<255>, nullptr, nullptr);
  EXPECT_EQ(device->error(), "");
}

TEST(EmulatorTest, LaunchesThatADeviceRefusesFail) {
  for (const int threads : {0, 31, 33, 1056}) {
    ExpectFailure(ReverseInShared<true>, threads, 256, {"launch of", "block of " + std::to_string(threads)});
  }
  ExpectFailure(ReverseInShared<true>, 64, 227 * 1024 + 1, {"shared memory"});
}

}  // namespace
}  // namespace dunlin::kernels::cuda
