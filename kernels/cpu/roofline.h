// What this machine can do at best, measured by the pool that does the work: the denominators of every utilisation
// figure. Thread-safety: as ThreadPool::Run.  Borrows: the memory it is given.  Errors: none; a figure of 0 means the
// clock saw no time pass. Cost: about a quarter of a second each where nothing else is said.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_ROOFLINE_H_
#define DUNLIN_KERNELS_CPU_ROOFLINE_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/thread_pool.h"

namespace dunlin::kernels::cpu {

// Bytes per second that all threads together read from an arena of `bytes` in huge pages; the best of several passes.
double MeasureReadBandwidth(const KernelTable& kernels, ThreadPool* pool, size_t bytes);

// The same over memory that is there already, such as packed weights: nothing is allocated. About 0.05 s, or two passes
// where they take longer. Memory that fits a cache gives the cache's figure, which is then the roof of reading it.
double MeasureReadBandwidth(const KernelTable& kernels, ThreadPool* pool, std::span<const uint8_t> memory);

// Multiply-adds per second of all threads together on operands in registers and the first cache: int8 dot products as
// the family has them, and fused f32.
double MeasureInt8Peak(const KernelTable& kernels, ThreadPool* pool);
double MeasureFloatPeak(const KernelTable& kernels, ThreadPool* pool);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ROOFLINE_H_
