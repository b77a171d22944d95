#include "vector_kernels.h"

#include <cstdlib>
#include <string>

// Target pragmas rather than target_clones: GCC lowers vector types before it makes the clones, for the baseline, and
// they work under sanitizers and with every C library.
#define LIBRA_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define LIBRA_BEGIN(isa) LIBRA_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define LIBRA_END LIBRA_PRAGMA(clang attribute pop)
#else
#define LIBRA_BEGIN(isa) LIBRA_PRAGMA(GCC push_options) LIBRA_PRAGMA(GCC target(isa))
#define LIBRA_END LIBRA_PRAGMA(GCC pop_options)
#endif

namespace libra_d2 {
namespace {

namespace baseline {
constexpr int64_t kWidth = 4;
#include "vector_kernels_impl.h"
}  // namespace baseline

#if defined(__x86_64__)
LIBRA_BEGIN("avx2")
namespace avx2 {
constexpr int64_t kWidth = 8;
#include "vector_kernels_impl.h"
}  // namespace avx2
LIBRA_END
LIBRA_BEGIN("avx512f,avx512vl,avx512bw,avx512dq")
namespace avx512 {
constexpr int64_t kWidth = 16;
#include "vector_kernels_impl.h"
}  // namespace avx512
LIBRA_END
#endif

}  // namespace

const VectorKernels& vector_kernels(InstructionSet isa) {
#if defined(__x86_64__)
  if (isa == InstructionSet::kAvx512) return avx512::kKernels;
  if (isa == InstructionSet::kAvx2) return avx2::kKernels;
#endif
  static_cast<void>(isa);
  return baseline::kKernels;
}

InstructionSet best_instruction_set() {
#if defined(__x86_64__)
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string most = variable ? variable : "";
  if (most == "default" || !__builtin_cpu_supports("avx2")) return InstructionSet::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return avx512 && most != "avx2" ? InstructionSet::kAvx512 : InstructionSet::kAvx2;
#else
  return InstructionSet::kBaseline;
#endif
}

}  // namespace libra_d2

// For Python, which can ask by ctypes.
extern "C" __attribute__((visibility("default"))) const char* libra_d2_instruction_set() {
  constexpr const char* names[] = {"DEFAULT", "AVX2", "AVX512"};
  return names[static_cast<int>(libra_d2::best_instruction_set())];
}
