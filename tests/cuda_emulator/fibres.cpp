#include "tests/cuda_emulator/fibres.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// swapcontext makes a system call for the signal mask, a hundred times the price of the switch itself; a
// kernel test makes millions of them. So x86-64 has its own few instructions, other processors the library's.

#if defined(__x86_64__)
extern "C" void spectrain_switch_stack(void** save, void* load);
asm(R"(
.text
.globl spectrain_switch_stack
.type spectrain_switch_stack, @function
spectrain_switch_stack:
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
.size spectrain_switch_stack, .-spectrain_switch_stack
)");
#endif

namespace spectrain::emulator {

struct Fibre::Impl {
  std::byte* stack = nullptr;
  std::size_t bytes = 0;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
  bool ended = true;
#if defined(__x86_64__)
  void* own = nullptr;
  void* scheduler = nullptr;
#else
  ucontext_t own{}, scheduler{};
#endif
  void* fake_own = nullptr;  // the address sanitizer's bookkeeping
  void* fake_scheduler = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_bytes = 0;

  void to_scheduler(bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_own, scheduler_stack, scheduler_bytes);
#else
    static_cast<void>(last);
#endif
#if defined(__x86_64__)
    spectrain_switch_stack(&own, scheduler);
#else
    swapcontext(&own, &scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_own, &scheduler_stack, &scheduler_bytes);
#endif
  }
  static void begin(Impl* self) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->scheduler_stack, &self->scheduler_bytes);
#endif
    self->entry(self->argument);
    self->ended = true;
    self->to_scheduler(true);
  }
};

namespace {
thread_local void* starting = nullptr;
}  // namespace

Fibre::Fibre(std::size_t stack_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->bytes = stack_bytes;
  void* p =
      mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("no memory for the stack of a fibre");
  impl_->stack = static_cast<std::byte*>(p);
}

Fibre::~Fibre() { munmap(impl_->stack, impl_->bytes); }

bool Fibre::ended() const { return impl_->ended; }

void Fibre::prepare(void (*entry)(void*), void* argument) {
  impl_->entry = entry;
  impl_->argument = argument;
  impl_->ended = false;
  impl_->fake_own = nullptr;
#if defined(__x86_64__)
  auto* top = reinterpret_cast<void**>(impl_->stack + impl_->bytes);
  // No caller; a function begins with the stack pointer 8 past a multiple of 16.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(+[] { Impl::begin(static_cast<Impl*>(starting)); });
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  impl_->own = top;
#else
  getcontext(&impl_->own);
  impl_->own.uc_stack.ss_sp = impl_->stack;
  impl_->own.uc_stack.ss_size = impl_->bytes;
  impl_->own.uc_link = nullptr;
  makecontext(&impl_->own, reinterpret_cast<void (*)()>(+[] { Impl::begin(static_cast<Impl*>(starting)); }),
              0);
#endif
}

void Fibre::resume() {
  starting = impl_.get();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&impl_->fake_scheduler, impl_->stack, impl_->bytes);
#endif
#if defined(__x86_64__)
  spectrain_switch_stack(&impl_->scheduler, impl_->own);
#else
  swapcontext(&impl_->scheduler, &impl_->own);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(impl_->fake_scheduler, nullptr, nullptr);
#endif
}

void Fibre::pause() { impl_->to_scheduler(false); }

}  // namespace spectrain::emulator
