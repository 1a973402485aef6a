#include "kernels/cpu/roofline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "kernels/cpu/arena.h"

namespace dunlin::kernels::cpu {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kBudget{250};
constexpr std::chrono::milliseconds kStartBudget{50};  // of what a server measures before it is ready
constexpr size_t kChunk = size_t{1} << 20;

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// Runs `pass` (which returns the units it did) until the budget is spent, at least twice; the best units per second.
template <typename Pass>
double BestRate(Clock::duration budget, Pass pass) {
  const Clock::time_point start = Clock::now();
  double best = 0.0;
  for (int i = 0; i < 2 || Clock::now() - start < budget; ++i) {
    const Clock::time_point begin = Clock::now();
    const double units = pass();
    const double seconds = Seconds(Clock::now() - begin);
    if (seconds > 0.0) best = std::max(best, units / seconds);
  }
  return best;
}

// Calls visit(offset, bytes) for every chunk of `bytes` on the pool's threads; contiguous shares, as the prefetchers
// like them.
template <typename Visit>
void EachChunk(ThreadPool* pool, size_t bytes, Visit visit) {
  const size_t chunks = (bytes + kChunk - 1) / kChunk;
  pool->Run([&](ThreadPool::Context& context) {
    const size_t threads = static_cast<size_t>(context.num_threads());
    const size_t t = static_cast<size_t>(context.thread());
    for (size_t c = chunks * t / threads; c < chunks * (t + 1) / threads; ++c) {
      visit(c * kChunk, std::min(kChunk, bytes - c * kChunk));
    }
  });
}

double ReadRate(Clock::duration budget, const KernelTable& kernels, ThreadPool* pool, std::span<const uint8_t> memory) {
  std::atomic<uint64_t> sink{0};
  return BestRate(budget, [&] {
    EachChunk(pool, memory.size(), [&](size_t offset, size_t bytes) {
      sink.fetch_add(kernels.read_stream(memory.data() + offset, bytes), std::memory_order_relaxed);
    });
    return static_cast<double>(memory.size());
  });
}

// A pass is long beside waking the pool and short beside the budget, so that one that nobody interrupts is among them.
template <typename Value>
double MeasureStream(int64_t (*stream)(int64_t, Value*), ThreadPool* pool) {
  constexpr int64_t kIterations = 4000;
  std::atomic<int64_t> done{0};
  std::atomic<Value> sink{};
  return BestRate(kBudget, [&] {
    done.store(0, std::memory_order_relaxed);
    pool->Run([&](ThreadPool::Context&) {
      Value value{};
      done.fetch_add(stream(kIterations, &value), std::memory_order_relaxed);
      sink.store(value, std::memory_order_relaxed);
    });
    return static_cast<double>(done.load(std::memory_order_relaxed));
  });
}

}  // namespace

double MeasureReadBandwidth(const KernelTable& kernels, ThreadPool* pool, size_t bytes) {
  Arena arena;
  bytes = std::max(bytes / kChunk, size_t{1}) * kChunk;
  uint8_t* data = arena.Allocate(bytes);
  EachChunk(pool, bytes, [&](size_t offset, size_t n) { std::memset(data + offset, 1, n); });
  return ReadRate(kBudget, kernels, pool, {data, bytes});
}

double MeasureReadBandwidth(const KernelTable& kernels, ThreadPool* pool, std::span<const uint8_t> memory) {
  return ReadRate(kStartBudget, kernels, pool, memory);
}

double MeasureInt8Peak(const KernelTable& kernels, ThreadPool* pool) {
  return MeasureStream<int32_t>(kernels.int8_stream, pool);
}

double MeasureFloatPeak(const KernelTable& kernels, ThreadPool* pool) {
  return MeasureStream<float>(kernels.float_stream, pool);
}

}  // namespace dunlin::kernels::cpu
