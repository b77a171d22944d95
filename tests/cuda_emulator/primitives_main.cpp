// The emulator's primitives against what the CUDA programming guide says of them; the exit status
// is the number of differences.
#include <cstdio>

static int differences = 0;
static void expect(bool good, const char* what, int line) {
  if (good) return;
  ++differences;
  fprintf(stderr, "line %d: %s\n", line, what);
}
#define EXPECT(condition) expect(condition, #condition, __LINE__)

struct Shared {
  int value[64];
};

void warp_primitives() {
  const int lane = threadIdx.x % 32;
  const unsigned bit = 1u << lane;
  EXPECT(__shfl_sync(~0u, lane * 10, 7) == 70);
  EXPECT(__shfl_sync(~0u, lane, lane + 1) == (lane + 1) % 32);
  EXPECT(__shfl_xor_sync(~0u, lane, 5) == (lane ^ 5));
  EXPECT(__shfl_up_sync(~0u, lane, 3) == (lane < 3 ? lane : lane - 3));
  EXPECT(__shfl_down_sync(~0u, lane, 3) == (lane > 28 ? lane : lane + 3));
  EXPECT(__shfl_sync(~0u, 1ull << (lane + 20), 31) == 1ull << 51);
  EXPECT(__ballot_sync(~0u, lane % 3 == 0) == 0x49249249u);
  EXPECT(__any_sync(~0u, lane == 4) && !__any_sync(~0u, lane == 40));
  EXPECT(__all_sync(~0u, lane < 32) && !__all_sync(~0u, lane != 4));
  EXPECT(__reduce_max_sync(~0u, static_cast<unsigned>(lane * 7 % 32)) == 31);
  EXPECT(__reduce_min_sync(~0u, lane - 9) == -9);
  EXPECT(__reduce_add_sync(~0u, lane) == 496);
  // Two halves of a diverged warp meet apart, even in the same line.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  EXPECT(__ballot_sync(half, true) == half);
  if (lane % 2) {
    EXPECT(__reduce_add_sync(0xaaaaaaaau, lane) == 256);
  }
  __syncwarp();
  EXPECT(__popc(__ballot_sync(~0u, bit & 0xff)) == 8);
}

void block_primitives(int* sum, unsigned long long* highest) {
  LIBRA_SHARED(Shared, shared);
  EXPECT(static_cast<unsigned>(shared.value[threadIdx.x]) == 0xCDCDCDCDu);  // poisoned
  __syncthreads();
  shared.value[threadIdx.x] = threadIdx.x + 100 * blockIdx.x;
  __syncthreads();
  const int other = (threadIdx.x + 40) % blockDim.x;
  EXPECT(shared.value[other] == other + 100 * static_cast<int>(blockIdx.x));
  atomicAdd(sum, 1);
  atomicMax(highest, static_cast<unsigned long long>(blockIdx.x) << 40 | threadIdx.x);
  EXPECT(gridDim.x == 3 && blockDim.x == 64);
}

void atomics(int* p) {
  if (threadIdx.x != 0) return;
  EXPECT(atomicAdd(p, 5) == 1 && *p == 6);
  EXPECT(atomicMin(p, 2) == 6 && *p == 2);
  EXPECT(atomicMax(p, 1) == 2 && *p == 2);
  EXPECT(atomicOr(p, 9) == 2 && *p == 11);
  EXPECT(atomicExch(p, 4) == 11 && *p == 4);
  EXPECT(atomicCAS(p, 3, 7) == 4 && *p == 4);
  EXPECT(atomicCAS(p, 4, 7) == 4 && *p == 7);
}

void scalars() {
  EXPECT(__popc(0xf0f0u) == 8 && __ffs(8) == 4 && __ffs(0) == 0);
  EXPECT(__clz(1) == 31 && __clz(0) == 32 && __clzll(1) == 63);
  EXPECT(__umulhi(0x80000000u, 6u) == 3u);
  EXPECT(__float_as_uint(1.f) == 0x3f800000u && __uint_as_float(0x40000000u) == 2.f);
  // A product whose rounding an FMA would leave out.
  const float a = 1.f + 0x1p-12f;
  EXPECT(__fsub_rn(__fmul_rn(a, a), 1.f + 0x1p-11f) == 0.f);
  EXPECT(__fdiv_rn(__fadd_rn(1.f, 2.f), 4.f) == 0.75f);
  EXPECT(sizeof(float4) == 16 && alignof(float4) == 16 && alignof(uint4) == 16);
  const float4 v = {1, 2, 3, 4};
  EXPECT(__ldg(&v).w == 4.f);
}

int main() {
  for (int order = 0; order < 3; ++order) {
    emulator::Device::instance().options = {static_cast<emulator::Order>(order), 7, order == 2};
    int sum = 0, one = 1;
    unsigned long long highest = 0;
    emulator::launch(warp_primitives, 2, 96);
    emulator::launch(block_primitives, 3, 64, &sum, &highest);
    emulator::launch(atomics, 1, 32, &one);
    emulator::launch(scalars, 1, 32);
    EXPECT(sum == 192 && highest == (2ull << 40 | 63));
  }
  return differences;
}
