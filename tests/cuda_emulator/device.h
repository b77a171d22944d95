// The CUDA execution model on one CPU thread: a fiber a thread, block after block.
//
// A kernel launched here has to be right under every order of its threads, so tests run it in
// several. The emulator aborts, saying where, when
//   - the threads of a block wait at different __syncthreads, or one has exited before it,
//   - a lane calls a warp primitive with a mask it is not in, or reads a lane outside the mask,
//   - nothing can go on (a mask names a lane that exited or waits elsewhere).
// Shared memory is poisoned anew for every block and lies in exactly sized heap blocks, so that the
// address sanitizer sees its ends. Barriers and warp primitives order memory for the thread
// sanitizer and nothing else in a block does, which makes it a race check.
//
// Not seen: races and ordering between blocks, and anything about speed.
#pragma once

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "fiber.h"

namespace emulator {

struct Index3 {
  unsigned x, y, z;
};

enum class Order { kForward, kReverse, kRandom };

struct Options {
  Order order = Order::kForward;
  uint64_t seed = 1;
  bool yield_at_atomics = false;
};

class Device {
 public:
  EMULATOR_UNWATCHED static Device& instance() {
    static Device device;
    return device;
  }

  Options options;
  int launches = 0;

  void launch(unsigned blocks, unsigned threads, std::function<void()> body) {
    if (threads == 0 || threads > kMaxThreads || threads % 32 != 0) {
      fail("expected whole warps and at most %u threads a block, got %u", kMaxThreads, threads);
    }
    ++launches;
    grid_ = blocks;
    block_size_ = threads;
    body_ = std::move(body);
    random_state_ = options.seed * 0x9E3779B97F4A7C15ull | 1;
    host_.adopt_caller();
    if (threads_.empty()) threads_.resize(kMaxThreads);
    for (unsigned i = 0; i < threads; ++i) {
      if (!threads_[i].fiber.created()) threads_[i].fiber.create(&Device::thread_main);
      threads_[i].index = i;
    }
    for (block_ = 0; block_ < blocks; ++block_) run_block();
    current_ = nullptr;
  }

  // Built-in variables.
  EMULATOR_UNWATCHED unsigned thread() const { return current_->index; }
  EMULATOR_UNWATCHED unsigned lane() const { return current_->index % 32; }
  EMULATOR_UNWATCHED unsigned block() const { return block_; }
  EMULATOR_UNWATCHED unsigned block_size() const { return block_size_; }
  EMULATOR_UNWATCHED unsigned grid_size() const { return grid_; }

  void barrier(int line) {
    Unwatched unwatched;
    Thread& me = *current_;
    me.line = line;
    if (exited_ > 0) fail("__syncthreads after a thread of the block has exited");
    if (waiting_ > 0 && line != barrier_line_) {
      fail("__syncthreads is divergent: another thread waits at line %d", barrier_line_);
    }
    barrier_line_ = line;
    ++waiting_;
    me.state = State::kAtBarrier;
    // Two in turn: a thread may reach the next barrier before another has left this one, and what
    // it did in between must not look ordered.
    char* order = &barrier_order_[barriers_ % 2];
    release(order);
    yield(me);
    acquire(order);
  }

  // A rendezvous of the lanes in `mask`: everybody gets the values of all.
  void exchange(uint32_t mask, uint64_t value, int line, uint64_t (&values)[32]) {
    Unwatched unwatched;
    Thread& me = *current_;
    const unsigned lane = me.index % 32, warp = me.index / 32;
    const uint32_t bit = 1u << lane;
    me.line = line;
    if (!(mask & bit)) fail("warp primitive: lane %u is not in its mask %08x", lane, mask);
    Meeting& meeting = find_meeting(warp, mask, line, bit);
    meeting.values[lane] = value;
    meeting.arrived |= bit;
    release(&meeting);
    if (meeting.arrived == mask) {
      for (unsigned l = 0; l < 32; ++l) {
        if (mask >> l & 1 && l != lane) threads_[warp * 32 + l].state = State::kReady;
      }
    } else {
      me.state = State::kInWarp;
      yield(me);
    }
    acquire(&meeting);
    memcpy(values, meeting.values, sizeof(values));
    meeting.left |= bit;
    if (meeting.left == mask) meeting.mask = 0;
  }

  void before_atomic() {
    if (!options.yield_at_atomics) return;
    Unwatched unwatched;
    if (random() % 4 == 0) yield(*current_);
  }

  // The block's memory behind one __shared__ declaration, which `site` identifies.
  void* shared(const void* site, size_t bytes, size_t alignment) {
    Unwatched unwatched;
    for (const Shared& s : shared_) {
      if (s.site == site) return s.memory.get();
    }
    shared_.push_back(Shared{site, poisoned(bytes, alignment)});
    return shared_.back().memory.get();
  }

  [[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const char* format, ...) const {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emulator: ");
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " [block %u", block_);
    if (current_) fprintf(stderr, ", thread %u, line %d", current_->index, current_->line);
    fprintf(stderr, "]\n");
    abort();
  }

 private:
  static constexpr unsigned kMaxThreads = 1024;

  enum class State { kReady, kAtBarrier, kInWarp, kExited };

  struct Thread {
    Fiber fiber;
    State state = State::kExited;
    unsigned index = 0;
    int line = 0;
  };

  struct Meeting {
    uint32_t mask = 0;  // 0: free
    uint32_t arrived = 0, left = 0;
    int line = 0;
    uint64_t values[32];
  };

  struct Free {
    void operator()(void* p) const { free(p); }
  };
  using Memory = std::unique_ptr<void, Free>;
  struct Shared {
    const void* site;
    Memory memory;
  };

  static Memory poisoned(size_t bytes, size_t alignment) {
    void* p = nullptr;
    if (bytes == 0) return nullptr;
    if (posix_memalign(&p, std::max(alignment, sizeof(void*)), bytes) != 0) abort();
    memset(p, 0xCD, bytes);
    return Memory(p);
  }

  // Stacks outlive blocks and launches: an exited thread comes back here for its next life.
  static void thread_main() {
    Device& device = instance();
    Fiber::arrived_from(device.host_);
    for (;;) {
      acquire(&device.host_);  // the launch happens before the thread
      device.body_();
      release(&device.exited_);  // the thread happens before whatever follows the block
      Unwatched unwatched;
      Thread& me = *device.current_;
      me.state = State::kExited;
      ++device.exited_;
      if (device.waiting_ > 0) device.fail("a thread exits while others wait at __syncthreads");
      device.yield(me);
    }
  }

  void yield(Thread& me) { Fiber::switch_between(me.fiber, host_); }

  uint64_t random() {
    random_state_ ^= random_state_ << 13;
    random_state_ ^= random_state_ >> 7;
    random_state_ ^= random_state_ << 17;
    return random_state_;
  }

  Meeting& find_meeting(unsigned warp, uint32_t mask, int line, uint32_t bit) {
    if (meetings_.size() <= warp) meetings_.resize(warp + 1);
    if (!meetings_[warp]) meetings_[warp].reset(new Meeting[kMeetings]);
    Meeting* unused = nullptr;
    for (unsigned i = 0; i < kMeetings; ++i) {
      Meeting& m = meetings_[warp][i];
      if (m.mask == mask && m.line == line && !(m.arrived & bit)) return m;
      if (m.mask == 0 && !unused) unused = &m;
    }
    if (!unused) fail("warp primitive: too many rendezvous at once");
    unused->mask = mask;
    unused->line = line;
    unused->arrived = unused->left = 0;
    return *unused;
  }

  // Runs the ready threads of a warp until all of them wait; true if any ran.
  bool run_warp(unsigned warp) {
    bool ran = false;
    for (bool again = true; again;) {
      again = false;
      const unsigned shuffle = options.order == Order::kRandom    ? random() % 32
                               : options.order == Order::kReverse ? 31
                                                                  : 0;
      for (unsigned i = 0; i < 32; ++i) {
        Thread& thread = threads_[warp * 32 + (i ^ shuffle)];
        if (thread.state != State::kReady) continue;
        current_ = &thread;
        Fiber::switch_between(host_, thread.fiber);
        again = ran = true;
      }
    }
    return ran;
  }

  void run_block() {
    exited_ = waiting_ = 0;
    shared_.clear();
    const unsigned warps = block_size_ / 32;
    std::vector<unsigned> order(warps);
    for (unsigned w = 0; w < warps; ++w) {
      order[w] = options.order == Order::kReverse ? warps - 1 - w : w;
    }
    for (unsigned i = 0; i < block_size_; ++i) threads_[i].state = State::kReady;
    release(&host_);
    while (exited_ < block_size_) {
      if (options.order == Order::kRandom) {
        for (unsigned w = warps; w > 1; --w) std::swap(order[w - 1], order[random() % w]);
      }
      bool ran = false;
      for (unsigned w : order) ran |= run_warp(w);
      if (waiting_ == block_size_) {
        waiting_ = 0;
        ++barriers_;
        for (unsigned i = 0; i < block_size_; ++i) threads_[i].state = State::kReady;
      } else if (!ran) {
        report_deadlock();
      }
    }
    acquire(&exited_);
  }

  [[noreturn]] void report_deadlock() const {
    for (unsigned i = 0; i < block_size_; ++i) {
      const Thread& t = threads_[i];
      if (t.state == State::kAtBarrier || t.state == State::kInWarp) {
        fprintf(stderr, "emulator: thread %u waits in a %s at line %d\n", i,
                t.state == State::kAtBarrier ? "__syncthreads" : "warp primitive", t.line);
      }
    }
    fail("deadlock: every thread waits for one that waits elsewhere or has exited");
  }

  static constexpr unsigned kMeetings = 32;

  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Meeting[]>> meetings_;  // a pool for each warp
  std::vector<Shared> shared_;
  std::function<void()> body_;
  Fiber host_;
  Thread* current_ = nullptr;
  unsigned grid_ = 0, block_ = 0, block_size_ = 0, waiting_ = 0, exited_ = 0;
  unsigned barriers_ = 0;
  char barrier_order_[2];
  int barrier_line_ = 0;
  uint64_t random_state_ = 1;
};

}  // namespace emulator
