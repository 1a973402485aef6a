#include "kernels/cuda/emulator/fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#define DUNLIN_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DUNLIN_ASAN 1
#endif
#endif
#if defined(DUNLIN_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace dunlin::kernels::cuda::emulator {

#if defined(__x86_64__)
// Saves the callee-saved registers and the control words on the stack of `*save`, takes those of `load`.
extern "C" void dunlin_switch_stack(void** save, void* load);
asm(R"(
.text
.p2align 4
.type dunlin_switch_stack, @function
dunlin_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dunlin_switch_stack, .-dunlin_switch_stack
)");
#endif

#if defined(DUNLIN_ASAN)
namespace {
// What AddressSanitizer must hear on the far side of a switch.
struct Crossing {
  Fiber* from = nullptr;
  void* fake_stack = nullptr;
};
Crossing g_crossing;
}  // namespace
#endif

void Fiber::Prepare(uint8_t* stack, size_t bytes, void (*entry)()) {
  stack_ = stack;
  bytes_ = bytes;
  fake_stack_ = nullptr;
#if defined(__x86_64__)
  // As if entry had been called: the return address is at 16 n + 8 when it begins.
  auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
  *--top = nullptr;  // entry's return address: there is none
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::Entered() {
#if defined(DUNLIN_ASAN)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(g_crossing.fake_stack, &bottom, &size);
  // The OS thread's own stack is learnt from the first switch away from it.
  if (g_crossing.from != nullptr && g_crossing.from->stack_ == nullptr) {
    g_crossing.from->stack_ = static_cast<uint8_t*>(const_cast<void*>(bottom));
    g_crossing.from->bytes_ = size;
  }
#endif
}

void Fiber::Abandon([[maybe_unused]] uint8_t* stack, [[maybe_unused]] size_t bytes) {
#if defined(DUNLIN_ASAN)
  ASAN_UNPOISON_MEMORY_REGION(stack, bytes);
#endif
}

void Fiber::Switch(Fiber* from, Fiber* to) {
#if defined(DUNLIN_ASAN)
  __sanitizer_start_switch_fiber(&from->fake_stack_, to->stack_, to->bytes_);
  g_crossing = {from, to->fake_stack_};
#endif
#if defined(__x86_64__)
  dunlin_switch_stack(&from->stack_pointer_, to->stack_pointer_);
#else
  swapcontext(&from->context_, &to->context_);
#endif
  Entered();
}

}  // namespace dunlin::kernels::cuda::emulator
