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

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

// Runs `pass` (which returns the units it did) until the budget is spent, at least twice; the best units per second.
template <typename Pass>
double BestRate(Pass pass) {
  const Clock::time_point start = Clock::now();
  double best = 0.0;
  for (int i = 0; i < 2 || Clock::now() - start < kBudget; ++i) {
    const Clock::time_point begin = Clock::now();
    const double units = pass();
    const double seconds = Seconds(Clock::now() - begin);
    if (seconds > 0.0) best = std::max(best, units / seconds);
  }
  return best;
}

// A pass is long beside waking the pool and short beside the budget, so that one that nobody interrupts is among them.
template <typename Value>
double MeasureStream(int64_t (*stream)(int64_t, Value*), ThreadPool* pool) {
  constexpr int64_t kIterations = 4000;
  std::atomic<int64_t> done{0};
  std::atomic<Value> sink{};
  return BestRate([&] {
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
  constexpr size_t kChunk = size_t{1} << 20;
  Arena arena;
  const size_t chunks = std::max<size_t>(bytes / kChunk, 1);
  uint8_t* data = arena.Allocate(chunks * kChunk);
  std::atomic<uint64_t> sink{0};
  const auto each_chunk = [&](auto visit) {
    pool->Run([&](ThreadPool::Context& context) {
      // Contiguous shares, as the prefetchers like them.
      const size_t threads = static_cast<size_t>(context.num_threads());
      const size_t t = static_cast<size_t>(context.thread());
      for (size_t c = chunks * t / threads; c < chunks * (t + 1) / threads; ++c) visit(data + c * kChunk);
    });
  };
  each_chunk([](uint8_t* chunk) { std::memset(chunk, 1, kChunk); });
  return BestRate([&] {
    each_chunk(
        [&](const uint8_t* chunk) { sink.fetch_add(kernels.read_stream(chunk, kChunk), std::memory_order_relaxed); });
    return static_cast<double>(chunks * kChunk);
  });
}

double MeasureInt8Peak(const KernelTable& kernels, ThreadPool* pool) {
  return MeasureStream<int32_t>(kernels.int8_stream, pool);
}

double MeasureFloatPeak(const KernelTable& kernels, ThreadPool* pool) {
  return MeasureStream<float>(kernels.float_stream, pool);
}

}  // namespace dunlin::kernels::cpu
