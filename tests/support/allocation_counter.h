// Counts what this process allocates, by replacing operator new (allocation_counter.cc, linked into the program that
// includes this). Thread-safety: thread-safe.  Cost: one relaxed increment per allocation. Source: ours.
#ifndef DUNLIN_TESTS_SUPPORT_ALLOCATION_COUNTER_H_
#define DUNLIN_TESTS_SUPPORT_ALLOCATION_COUNTER_H_

#include <cstdint>

namespace dunlin::testing {

uint64_t NumAllocations();  // since the start of the process

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_ALLOCATION_COUNTER_H_
