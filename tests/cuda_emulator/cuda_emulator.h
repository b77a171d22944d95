// CUDA's language and built-ins for g++, on top of device.h. Given to the compiler with -include
// before a .cuh file, together with -ffp-contract=off.
#pragma once

#include <cmath>
#include <tuple>
#include <utility>

#include "device.h"

// The architecture whose code is compiled; -DEMULATOR_ARCH=750 takes the paths for older GPUs.
#if !defined(EMULATOR_ARCH)
#define EMULATOR_ARCH 800
#endif
#define __CUDA_ARCH__ EMULATOR_ARCH

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// A static of its own names each declaration; a plain __shared__ does not compile here, as it could
// not be poisoned.
#define LIBRA_SHARED(Type, name)     \
  static const char name##_site = 0; \
  Type& name = *static_cast<Type*>(emulator::Device::instance().shared(&name##_site, sizeof(Type), alignof(Type)))

struct alignas(16) float4 {
  float x, y, z, w;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using std::max;
using std::min;

namespace emulator {

EMULATOR_UNWATCHED inline Index3 thread_index() { return {Device::instance().thread(), 0, 0}; }
EMULATOR_UNWATCHED inline Index3 block_index() { return {Device::instance().block(), 0, 0}; }
EMULATOR_UNWATCHED inline Index3 block_dim() { return {Device::instance().block_size(), 1, 1}; }
EMULATOR_UNWATCHED inline Index3 grid_dim() { return {Device::instance().grid_size(), 1, 1}; }
EMULATOR_UNWATCHED inline unsigned own_lane() { return Device::instance().lane(); }

template <class T>
uint64_t to_bits(T v) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// `source` outside 0..31 means the lane's own value.
template <class T>
T shuffle(uint32_t mask, T v, int source, int line) {
  uint64_t values[32];
  Device& device = Device::instance();
  device.exchange(mask, to_bits(v), line, values);
  if (source < 0 || source > 31) return v;
  if (!(mask >> source & 1)) device.fail("shuffle reads lane %d, outside its mask", source);
  return from_bits<T>(values[source]);
}

template <class T, class Combine>
T reduce(uint32_t mask, T v, int line, Combine combine) {
  uint64_t values[32];
  Device::instance().exchange(mask, to_bits(v), line, values);
  bool first = true;
  T result{};
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const T other = from_bits<T>(values[lane]);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}

template <class T, class Update>
T read_modify_write(T* p, Update update) {
  Device::instance().before_atomic();
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, update(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

inline uint32_t full_if_absent(uint32_t mask = ~0u) { return mask; }

// emulator::launch(kernel, blocks, threads, args...)
struct Launch {
  template <class... Params, class... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, const Args&... args) const {
    std::tuple<std::decay_t<Params>...> values(args...);
    Device::instance().launch(static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
                              [&] { std::apply(kernel, values); });
  }
};
constexpr Launch launch;

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_dim())
#define gridDim (emulator::grid_dim())

// Macros, because the line tells one rendezvous from another.
#define __syncthreads() emulator::Device::instance().barrier(__LINE__)
#define __syncwarp(...) \
  static_cast<void>(emulator::reduce(emulator::full_if_absent(__VA_ARGS__), 0, __LINE__, [](int a, int) { return a; }))
#define __shfl_sync(mask, v, lane) emulator::shuffle((mask), (v), (lane) & 31, __LINE__)
#define __shfl_xor_sync(mask, v, d) \
  emulator::shuffle((mask), (v), static_cast<int>(emulator::own_lane()) ^ (d), __LINE__)
#define __shfl_up_sync(mask, v, d) \
  emulator::shuffle((mask), (v), static_cast<int>(emulator::own_lane()) - (d), __LINE__)
#define __shfl_down_sync(mask, v, d) \
  emulator::shuffle((mask), (v), static_cast<int>(emulator::own_lane()) + (d), __LINE__)
#define __reduce_max_sync(mask, v) emulator::reduce((mask), (v), __LINE__, [](auto a, auto b) { return a > b ? a : b; })
#define __reduce_min_sync(mask, v) emulator::reduce((mask), (v), __LINE__, [](auto a, auto b) { return a < b ? a : b; })
#define __reduce_add_sync(mask, v) emulator::reduce((mask), (v), __LINE__, [](auto a, auto b) { return a + b; })
#define __ballot_sync(mask, predicate)                                              \
  emulator::reduce((mask), (predicate) ? 1u << emulator::own_lane() : 0u, __LINE__, \
                   [](unsigned a, unsigned b) { return a | b; })
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0u)
#define __all_sync(mask, predicate) (__ballot_sync(mask, !(predicate)) == 0u)

#define EMULATOR_ATOMICS(T)                                                                  \
  inline T atomicAdd(T* p, T v) {                                                            \
    return emulator::read_modify_write(p, [v](T old) { return old + v; });                   \
  }                                                                                          \
  inline T atomicMax(T* p, T v) {                                                            \
    return emulator::read_modify_write(p, [v](T old) { return old > v ? old : v; });         \
  }                                                                                          \
  inline T atomicMin(T* p, T v) {                                                            \
    return emulator::read_modify_write(p, [v](T old) { return old < v ? old : v; });         \
  }                                                                                          \
  inline T atomicOr(T* p, T v) {                                                             \
    return emulator::read_modify_write(p, [v](T old) { return old | v; });                   \
  }                                                                                          \
  inline T atomicExch(T* p, T v) {                                                           \
    return emulator::read_modify_write(p, [v](T) { return v; });                             \
  }                                                                                          \
  inline T atomicCAS(T* p, T expected, T v) {                                                \
    return emulator::read_modify_write(p, [=](T old) { return old == expected ? v : old; }); \
  }
EMULATOR_ATOMICS(int)
EMULATOR_ATOMICS(unsigned)
EMULATOR_ATOMICS(unsigned long long)
#undef EMULATOR_ATOMICS

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(unsigned v) { return __builtin_ffs(static_cast<int>(v)); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(static_cast<unsigned long long>(v)) : 64; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline unsigned __float_as_uint(float v) { return emulator::from_bits<unsigned>(emulator::to_bits(v)); }
inline float __uint_as_float(unsigned v) { return emulator::from_bits<float>(emulator::to_bits(v)); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }

template <class T>
T __ldg(const T* p) {
  return *p;
}
