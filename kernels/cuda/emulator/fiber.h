// A stack of its own that another one can switch to and from: the least that the emulator needs of a coroutine.
// Thread-safety: the fibers of one OS thread.  Owns: nothing (stacks are the caller's).  Errors: none.
// Cost: about 5 ns on x86-64 (own switch), a system call or two elsewhere (ucontext).
// Source: ours; the System V x86-64 ABI's callee-saved registers. AddressSanitizer is told of every switch.
#ifndef DUNLIN_KERNELS_CUDA_EMULATOR_FIBER_H_
#define DUNLIN_KERNELS_CUDA_EMULATOR_FIBER_H_

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace dunlin::kernels::cuda::emulator {

class Fiber {
 public:
  // Makes entry() what the next SwitchTo begins, on `stack`. entry never returns: it switches away for good.
  void Prepare(uint8_t* stack, size_t bytes, void (*entry)());
  // Leaves `from` (which may be the OS thread's own stack) and goes on where `to` was left.
  static void Switch(Fiber* from, Fiber* to);
  // First thing on a new stack.
  static void Entered();
  // What ran on `stack` will not go on: AddressSanitizer forgets the frames that were never left.
  static void Abandon(uint8_t* stack, size_t bytes);

 private:
  uint8_t* stack_ = nullptr;  // nullptr: the OS thread's own
  size_t bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace dunlin::kernels::cuda::emulator

#endif  // DUNLIN_KERNELS_CUDA_EMULATOR_FIBER_H_
