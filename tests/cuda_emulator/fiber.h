// A fiber: a stack to switch to, known to the address and thread sanitizers. On x86-64 a switch is
// fourteen instructions; elsewhere it is ucontext, some fifteen times slower.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT 1
#endif
#if defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace emulator {

#if defined(__SANITIZE_THREAD__)
// For functions of the scheduler that kernels call: they touch no memory of the emulated program.
#define EMULATOR_UNWATCHED __attribute__((noinline, no_sanitize("thread")))
// What happens before `release` on an object happens before what follows `acquire` on it.
inline void acquire(void* object) { __tsan_acquire(object); }
inline void release(void* object) { __tsan_release(object); }
// The same for a scope, in which accesses are seen but never reported.
struct Unwatched {
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  }
};
#else
#define EMULATOR_UNWATCHED
inline void acquire(void*) {}
inline void release(void*) {}
struct Unwatched {
  Unwatched() {}
};
#endif

#if !defined(EMULATOR_UCONTEXT)
extern "C" void emulator_switch(void** save_sp, void* load_sp);
__asm__(
    ".text\n"
    ".weak emulator_switch\n"
    ".type emulator_switch,@function\n"
    "emulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp,(%rdi)\n"
    "  movq %rsi,%rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emulator_switch,.-emulator_switch\n");
#endif

class Fiber {
 public:
  static constexpr size_t kStackSize = 64 * 1024;

  // Gives the fiber a stack, on which `entry` starts at the first switch. `entry` never returns.
  void create(void (*entry)()) {
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory =
        mmap(nullptr, kStackSize + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) {
      perror("emulator: cannot make a fiber's stack");
      abort();
    }
    stack_ = static_cast<char*>(memory) + guard;
    stack_size_ = kStackSize;
#if defined(EMULATOR_UCONTEXT)
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = stack_size_;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    void** top = reinterpret_cast<void**>(stack_ + stack_size_ - 64);
    *--top = nullptr;                         // entry's return address, keeps its frame aligned
    *--top = reinterpret_cast<void*>(entry);  // popped by ret
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    sp_ = top;
#endif
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  bool created() const { return stack_ != nullptr; }

  // Makes this object stand for the calling thread itself.
  void adopt_caller() {
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_get_current_fiber();
#endif
  }

  // The first thing that a fiber does; `from` is the one that switched to it.
  static void arrived_from([[maybe_unused]] Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    from.stack_ = static_cast<char*>(const_cast<void*>(bottom));
    from.stack_size_ = size;
#endif
  }

  // Leaves `from` and goes on in `to`; returns when somebody switches back to `from`.
  static void switch_between(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, to.stack_, to.stack_size_);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.tsan_, 1 /* a switch orders nothing */);
#endif
#if defined(EMULATOR_UCONTEXT)
    swapcontext(&from.context_, &to.context_);
#else
    emulator_switch(&from.sp_, to.sp_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

 private:
#if defined(EMULATOR_UCONTEXT)
  ucontext_t context_;
#else
  void* sp_ = nullptr;
#endif
  char* stack_ = nullptr;
  size_t stack_size_ = 0;
#if defined(__SANITIZE_THREAD__)
  void* tsan_ = nullptr;
#endif
};

}  // namespace emulator
