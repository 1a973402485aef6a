#include "kernels/cuda/emulator/emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <sstream>

#include "base/check.h"
#include "kernels/cuda/emulator/fiber.h"

namespace dunlin::kernels::cuda::emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // touched only as far as a kernel goes
constexpr size_t kGuard = 4096;
constexpr size_t kSharedRoom = (kMaxSharedBytes + kGuard - 1) / kGuard * kGuard;

// splitmix64: cheap, and the same everywhere.
class Random {
 public:
  void Seed(uint64_t seed) { state_ = seed; }
  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int Below(int n) { return static_cast<int>(Next() % static_cast<uint64_t>(n)); }
  bool OneIn(int n) { return Below(n) == 0; }

 private:
  uint64_t state_ = 1;
};

struct Machine {
  Block block;
  Random random;
  std::vector<Fiber> fibers;  // of the threads
  Fiber scheduler;
  uint8_t* stacks = nullptr;  // kMaxThreads of them
  uint8_t* shared = nullptr;  // kSharedRoom, between pages that nobody may touch
  const std::function<void()>* kernel = nullptr;
  std::string failure;
  bool deferred = false;          // SetDeferred
  std::vector<int> warp_arrived;  // lanes at each warp's collective
  int block_arrived = 0;
  int done = 0;

  Machine() {
    stacks = Map(kStackBytes * kMaxThreads);
    shared = Map(kSharedRoom + 2 * kGuard) + kGuard;
    CHECK_EQ(::mprotect(shared - kGuard, kGuard, PROT_NONE), 0);
    CHECK_EQ(::mprotect(shared + kSharedRoom, kGuard, PROT_NONE), 0);
  }
  static uint8_t* Map(size_t bytes) {
    void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED) << "no memory for the emulator's stacks";
    return static_cast<uint8_t*>(p);
  }
};

Machine& TheMachine() {
  static auto* machine = new Machine;
  return *machine;
}

void Land(const PendingCopy& copy) {
  if (copy.valid) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
}

void LandAll(Thread* thread) {
  for (const auto& group : thread->groups) std::for_each(group.begin(), group.end(), Land);
  std::for_each(thread->open.begin(), thread->open.end(), Land);
  thread->groups.clear();
  thread->open.clear();
}

// Back to the scheduler until somebody lets this thread go on.
void Pause() {
  Machine& m = TheMachine();
  Thread* self = m.block.current;
  Fiber::Switch(&m.fibers[static_cast<size_t>(self->index)], &m.scheduler);
}

void ThreadMain() {
  Fiber::Entered();
  Machine& m = TheMachine();
  (*m.kernel)();
  Thread* self = m.block.current;
  LandAll(self);
  self->wait = Wait::kDone;
  ++m.done;
  Pause();
  CHECK(false) << "a finished thread went on";
}

std::string Place(const Thread& thread) {
  const Block& b = TheMachine().block;
  std::ostringstream out;
  out << "block (" << b.block.x << ", " << b.block.y << ", " << b.block.z << ") thread " << thread.index;
  return out.str();
}

const char* WhereOf(const Thread& thread) {
  switch (thread.wait) {
    case Wait::kWarp:
      return thread.collective;
    case Wait::kBlock:
      return "SyncThreads";
    case Wait::kDone:
      return "its end";
    case Wait::kNothing:
      break;
  }
  return "its code";
}

// Nobody can go on: names one thread that waits and one that it waits for.
std::string Deadlock() {
  const Machine& m = TheMachine();
  for (const Thread& t : m.block.threads) {
    if (t.wait != Wait::kWarp && t.wait != Wait::kBlock) continue;
    const bool warp = t.wait == Wait::kWarp;
    for (const Thread& other : m.block.threads) {
      if (warp && other.index / kWarpSize != t.index / kWarpSize) continue;
      if (other.wait == t.wait && (!warp || other.collective == t.collective)) continue;
      return Place(t) + " waits at " + WhereOf(t) + " while thread " + std::to_string(other.index) + " is at " +
             WhereOf(other) + ": divergence";
    }
  }
  return "no thread can go on";
}

void StartBlock(int num_threads, size_t shared_bytes) {
  Machine& m = TheMachine();
  Block& b = m.block;
  b.num_threads = num_threads;
  // At the end of its memory, as far as alignment lets it: an overrun meets the page that nobody may touch.
  b.shared = m.shared + (kSharedRoom - shared_bytes) / 128 * 128;
  b.shared_bytes = shared_bytes;
  std::memset(b.shared, 0xFF, shared_bytes);
  b.threads.resize(static_cast<size_t>(num_threads));
  if (m.fibers.size() < b.threads.size()) m.fibers.resize(b.threads.size());
  m.warp_arrived.assign(static_cast<size_t>(num_threads / kWarpSize), 0);
  m.block_arrived = 0;
  m.done = 0;
  for (int i = 0; i < num_threads; ++i) {
    Thread& t = b.threads[static_cast<size_t>(i)];
    t.index = i;
    t.wait = Wait::kNothing;
    t.groups.clear();
    t.open.clear();
    m.fibers[static_cast<size_t>(i)].Prepare(m.stacks + static_cast<size_t>(i) * kStackBytes, kStackBytes, ThreadMain);
  }
}

void RunBlock() {
  Machine& m = TheMachine();
  Block& b = m.block;
  std::vector<int> order(b.threads.size());
  std::iota(order.begin(), order.end(), 0);
  while (m.done < b.num_threads && m.failure.empty()) {
    // A rotation and a stride are enough disorder, and cheaper than a shuffle per round.
    const int n = b.num_threads, first = m.random.Below(n);
    const bool backwards = m.random.OneIn(2);
    bool progress = false;
    for (int i = 0; i < n && m.failure.empty(); ++i) {
      const int at = (backwards ? first - i + n : first + i) % n;
      Thread& t = b.threads[static_cast<size_t>(at)];
      if (t.wait != Wait::kNothing) continue;
      progress = true;
      b.current = &t;
      Fiber::Switch(&m.scheduler, &m.fibers[static_cast<size_t>(at)]);
    }
    if (!progress) m.failure = Deadlock();
  }
}

}  // namespace

Block& CurrentBlock() { return TheMachine().block; }

void SetSeed(uint64_t seed) { TheMachine().random.Seed(seed); }

void SetDeferred(bool deferred) { TheMachine().deferred = deferred; }
bool Deferred() { return TheMachine().deferred; }

std::string Run(Dim grid, int threads, size_t shared_bytes, const std::function<void()>& kernel) {
  Machine& m = TheMachine();
  if (threads < kWarpSize || threads > kMaxThreads || threads % kWarpSize != 0) {
    return "a block of " + std::to_string(threads) + " threads: whole warps up to 1024 are allowed";
  }
  if (shared_bytes > kMaxSharedBytes) {
    return std::to_string(shared_bytes) + " bytes of shared memory: at most " + std::to_string(kMaxSharedBytes);
  }
  m.kernel = &kernel;
  m.failure.clear();
  m.block.grid = grid;
  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  const int64_t first = static_cast<int64_t>(m.random.Next() % static_cast<uint64_t>(std::max<int64_t>(1, blocks)));
  for (int64_t i = 0; i < blocks && m.failure.empty(); ++i) {
    const int64_t at = (first + i) % blocks;
    m.block.block = {static_cast<int>(at % grid.x), static_cast<int>(at / grid.x % grid.y),
                     static_cast<int>(at / grid.x / grid.y)};
    StartBlock(threads, shared_bytes);
    RunBlock();
  }
  if (!m.failure.empty()) Fiber::Abandon(m.stacks, kStackBytes * static_cast<size_t>(threads));
  return m.failure;
}

void Fail(std::string what) {
  Machine& m = TheMachine();
  if (m.failure.empty()) m.failure = Place(*m.block.current) + ": " + what;
  std::string().swap(what);              // nothing on this stack is destroyed any more
  m.block.current->wait = Wait::kBlock;  // its stack is given up with the launch
  Pause();
  CHECK(false) << "a failed thread went on";
  std::abort();
}

void WarpCollective(const char* name, void* slot, WarpAction act) {
  Machine& m = TheMachine();
  Thread* self = m.block.current;
  self->collective = name;
  self->action = act;
  self->slot = slot;
  const int warp = self->index / kWarpSize;
  int& arrived = m.warp_arrived[static_cast<size_t>(warp)];
  if (++arrived < kWarpSize) {
    self->wait = Wait::kWarp;
    Pause();
    return;
  }
  arrived = 0;
  Thread* lanes = &m.block.threads[static_cast<size_t>(warp * kWarpSize)];
  void* slots[kWarpSize];
  for (int i = 0; i < kWarpSize; ++i) {
    if (lanes[i].collective != name || lanes[i].action != act) {  // one name may stand for several types
      Fail(std::string("at ") + name + " while thread " + std::to_string(lanes[i].index) + " is at " +
           lanes[i].collective + ": divergence");
    }
    slots[i] = lanes[i].slot;
  }
  act(slots);
  for (int i = 0; i < kWarpSize; ++i) lanes[i].wait = Wait::kNothing;
  // The others go first as often as this one does.
  if (m.random.OneIn(2)) Pause();
}

void BlockBarrier() {
  Machine& m = TheMachine();
  if (++m.block_arrived < m.block.num_threads) {
    m.block.current->wait = Wait::kBlock;
    Pause();
    return;
  }
  m.block_arrived = 0;
  for (Thread& t : m.block.threads) t.wait = Wait::kNothing;
  if (m.random.OneIn(2)) Pause();
}

void CopyAsync(void* to, const void* from, bool valid) {
  Machine& m = TheMachine();
  CheckShared(to, 16, "CopyAsync16 to");
  if (valid) CheckAligned(from, 16, "CopyAsync16 from");
  const PendingCopy copy{to, from, valid};
  if (m.random.OneIn(4)) {
    Land(copy);  // the hardware may be this quick
  } else {
    m.block.current->open.push_back(copy);
  }
}

void CommitCopies() {
  Thread* self = TheMachine().block.current;
  self->groups.push_back(std::move(self->open));
  self->open.clear();
}

void WaitCopies(size_t left) {
  Thread* self = TheMachine().block.current;
  while (self->groups.size() > left) {
    std::for_each(self->groups.front().begin(), self->groups.front().end(), Land);
    self->groups.erase(self->groups.begin());
  }
}

void CheckAligned(const void* p, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) {
    Fail(std::string(what) + ": address not a multiple of " + std::to_string(bytes));
  }
}

void CheckShared(const void* p, size_t bytes, const char* what) {
  CheckAligned(p, bytes, what);
  const Block& b = TheMachine().block;
  const auto* at = static_cast<const uint8_t*>(p);
  if (at < b.shared || at + bytes > b.shared + b.shared_bytes) {
    Fail(std::string(what) + ": outside the block's " + std::to_string(b.shared_bytes) + " bytes of shared memory");
  }
}

}  // namespace dunlin::kernels::cuda::emulator
