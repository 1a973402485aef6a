// What this machine can do at best, measured by the pool that does the work: the denominators of every utilisation
// figure. Thread-safety: as ThreadPool::Run.  Errors: none; a figure of 0 means the clock saw no time pass. Cost: about
// a quarter of a second each.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_ROOFLINE_H_
#define DUNLIN_KERNELS_CPU_ROOFLINE_H_

#include <cstddef>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/thread_pool.h"

namespace dunlin::kernels::cpu {

// Bytes per second that all threads together read from an arena of `bytes` in huge pages; the best of several passes.
double MeasureReadBandwidth(const KernelTable& kernels, ThreadPool* pool, size_t bytes);

// Multiply-adds per second of all threads together on operands in registers and the first cache: int8 dot products as
// the family has them, and fused f32.
double MeasureInt8Peak(const KernelTable& kernels, ThreadPool* pool);
double MeasureFloatPeak(const KernelTable& kernels, ThreadPool* pool);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ROOFLINE_H_
