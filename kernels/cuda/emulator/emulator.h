// Runs a CUDA-style kernel on the CPU, one block at a time: a fiber per thread, a rendezvous per warp collective and
// per block barrier. It is a checker before it is a simulator:
//   - threads run in random order between rendezvous (SetSeed), blocks of a launch too;
//   - shared memory begins as 0xFF; copies of CopyAsync16 land at the wait that asks for them, or earlier at random;
//   - a collective that not all 32 lanes reach, lanes at different collectives, a barrier that a thread skips, a
//     misaligned or outside access through dev.h's loads and copies: the launch fails and says where.
// Not modelled: weak memory order, bank conflicts, time, the tensor cores' exact rounding.
//
// Thread-safety: one launch at a time in a process (fibers of one OS thread).  Owns: stacks, kept between launches.
// Errors: Run's return value.  Cost: about 10 ns per rendezvous and thread; an MmaF16 about 2 us.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_EMULATOR_EMULATOR_H_
#define DUNLIN_KERNELS_CUDA_EMULATOR_EMULATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace dunlin::kernels::cuda::emulator {

inline constexpr int kWarpSize = 32;
inline constexpr size_t kMaxSharedBytes = 227 * 1024;
inline constexpr int kMaxThreads = 1024;

struct Dim {
  int x = 1, y = 1, z = 1;
};

// What a thread waits for.
enum class Wait : uint8_t { kNothing, kWarp, kBlock, kDone };

struct PendingCopy {
  void* to;
  const void* from;
  bool valid;
};

// Acts on what the 32 lanes bring to a collective, once.
using WarpAction = void (*)(void* const* slots);

struct Thread {
  int index = 0;
  void* stack_pointer = nullptr;
  Wait wait = Wait::kNothing;
  // The collective it waits at: its name and what it brings and takes away.
  const char* collective = nullptr;
  WarpAction action = nullptr;
  void* slot = nullptr;
  std::vector<std::vector<PendingCopy>> groups;  // committed, oldest first
  std::vector<PendingCopy> open;                 // not committed
};

// The state of the block that runs.
struct Block {
  Dim block;  // its place
  Dim grid;
  int num_threads = 0;
  uint8_t* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<Thread> threads;
  Thread* current = nullptr;
};
Block& CurrentBlock();
inline Thread& CurrentThread() { return *CurrentBlock().current; }

// Order of everything random from here on.
void SetSeed(uint64_t seed);

// While true, a device does its work as late as it may: what an event or Synchronize waits for, when it is waited for.
// So a host that changes memory which the stream has yet to read is found out.
void SetDeferred(bool deferred);
bool Deferred();

// Runs all blocks. Empty: done; else what rule was broken, by which thread of which block.
std::string Run(Dim grid, int threads, size_t shared_bytes, const std::function<void()>& kernel);

// ---- For dev_emulated.h ----

// Brings `slot` to the other 31 lanes; when all have come, `act(slots)` runs once, with the lanes' slots in order.
void WarpCollective(const char* name, void* slot, WarpAction act);
void BlockBarrier();
void CopyAsync(void* to, const void* from, bool valid);
void CommitCopies();
void WaitCopies(size_t left);
// Ends the launch with this message; does not return.
[[noreturn]] void Fail(std::string what);
// Fails unless [p, p + bytes) is aligned to `bytes` and, for shared memory, within the block's.
void CheckShared(const void* p, size_t bytes, const char* what);
void CheckAligned(const void* p, size_t bytes, const char* what);

}  // namespace dunlin::kernels::cuda::emulator

#endif  // DUNLIN_KERNELS_CUDA_EMULATOR_EMULATOR_H_
