#include "kernels/cpu/thread_pool.h"

#include <dirent.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::kernels::cpu {
namespace {

TEST(ThreadPoolTest, EveryThreadEntersEveryJobOnce) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    std::vector<int> entered(static_cast<size_t>(threads), 0);
    for (int job = 0; job < 200; ++job) {
      pool.Run([&](ThreadPool::Context& context) { ++entered[static_cast<size_t>(context.thread())]; });
    }
    for (int n : entered) EXPECT_EQ(n, 200);
  }
}

TEST(ThreadPoolTest, ItemsAreHandedOutOnceAndPhasesAreApart) {
  ThreadPool pool(4);
  for (int job = 0; job < 50; ++job) {
    std::vector<int> first(97, 0), second(31, 0);
    std::atomic<bool> early{false};
    pool.Run([&](ThreadPool::Context& context) {
      for (int64_t i; (i = context.Next(0)) < 97;) ++first[static_cast<size_t>(i)];
      context.Barrier();
      for (int n : first) {
        if (n != 1) early = true;
      }
      for (int64_t i; (i = context.Next(1)) < 31;) ++second[static_cast<size_t>(i)];
    });
    EXPECT_FALSE(early);
    for (int n : second) EXPECT_EQ(n, 1);
  }
}

TEST(ThreadPoolTest, SharesCoverEveryItemOnceWhateverTheThreads) {
  ThreadPool pool(5);
  for (int job = 0; job < 300; ++job) {
    SCOPED_TRACE(job);
    const int threads = 1 + job * 7 % 5;
    pool.SetActive(threads);
    const int n = job % 61;
    std::vector<std::atomic<int>> seen(static_cast<size_t>(n)), entered(5);
    pool.Run([&](ThreadPool::Context& context) {
      ++entered[static_cast<size_t>(context.thread())];
      EXPECT_EQ(context.num_threads(), threads);
      for (int phase : {0, 3}) {
        context.ForShare(phase, n, 1 + job % 4, [&](int64_t begin, int64_t end) {
          EXPECT_LE(end - begin, 1 + job % 4);
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        context.Barrier();
      }
    });
    for (const std::atomic<int>& count : seen) ASSERT_EQ(count.load(), 2);
    for (int t = 0; t < 5; ++t) ASSERT_EQ(entered[static_cast<size_t>(t)].load(), t < threads ? 1 : 0);
  }
}

TEST(ThreadPoolTest, WritesBeforeABarrierAreSeenAfterIt) {
  ThreadPool pool(3);
  std::vector<int> values(3, 0);
  std::atomic<int> wrong{0};
  pool.Run([&](ThreadPool::Context& context) {
    for (int round = 1; round <= 500; ++round) {
      values[static_cast<size_t>(context.thread())] = round;
      context.Barrier();
      for (int v : values) wrong += v != round ? 1 : 0;
      context.Barrier();
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

// The states of this process's other threads, as the kernel reports them.
bool AllOtherThreadsSleep() {
  DIR* dir = opendir("/proc/self/task");
  if (dir == nullptr) return false;
  std::string self = std::to_string(getpid());
  bool all = true;
  while (const dirent* entry = readdir(dir)) {
    const std::string id = entry->d_name;
    if (id == "." || id == ".." || id == self) continue;
    std::ifstream stat("/proc/self/task/" + id + "/stat");
    std::string line;
    std::getline(stat, line);
    const size_t name_end = line.rfind(')');
    if (name_end != std::string::npos && line[name_end + 2] != 'S') all = false;
  }
  closedir(dir);
  return all;
}

TEST(ThreadPoolTest, IdleWorkersParkAndWakeAgain) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    while (!AllOtherThreadsSleep()) std::this_thread::yield();
    std::atomic<int> ran{0};
    pool.Run([&](ThreadPool::Context&) { ++ran; });
    EXPECT_EQ(ran.load(), 3);
  }
}

// The next job comes after every length of gap, some of them just as the worker parks: a wake-up lost there hangs.
TEST(ThreadPoolTest, AJobThatComesAsTheWorkerParksIsSeen) {
  ThreadPool pool(2);
  std::atomic<int> ran{0};
  for (int job = 0; job < 20000; ++job) {
    pool.Run([&](ThreadPool::Context&) { ++ran; });
    for (std::atomic<int> gap{job * 7919 % 10000}; gap > 0; gap.fetch_sub(1, std::memory_order_relaxed)) {
    }
  }
  EXPECT_EQ(ran.load(), 40000);
}

TEST(ThreadPoolTest, AWorkerThatParkedAtABarrierIsWoken) {
  ThreadPool pool(2);
  std::atomic<int> after{0};
  pool.Run([&](ThreadPool::Context& context) {
    if (context.thread() == 0) {
      while (!AllOtherThreadsSleep()) std::this_thread::yield();
    }
    context.Barrier();
    ++after;
  });
  EXPECT_EQ(after.load(), 2);
}

TEST(ThreadPoolTest, MoreThreadsThanCoresStillFinish) {
  ThreadPool pool(16);
  std::atomic<int64_t> sum{0};
  for (int job = 0; job < 20; ++job) {
    pool.Run([&](ThreadPool::Context& context) {
      for (int64_t i; (i = context.Next(0)) < 1000;) sum += i;
      context.Barrier();
    });
  }
  EXPECT_EQ(sum.load(), 20 * 999 * 1000 / 2);
}

}  // namespace
}  // namespace dunlin::kernels::cpu
