// Counts what this process allocates, by replacing operator new (allocation_counter.cc, linked into the program that
// includes this). Thread-safety: thread-safe.  Cost: one relaxed increment per allocation. Source: ours.
#ifndef DUNLIN_TESTS_BENCH_ALLOCATION_COUNTER_H_
#define DUNLIN_TESTS_BENCH_ALLOCATION_COUNTER_H_

#include <cstdint>

namespace dunlin::bench {

uint64_t NumAllocations();  // since the start of the process

}  // namespace dunlin::bench

#endif  // DUNLIN_TESTS_BENCH_ALLOCATION_COUNTER_H_
