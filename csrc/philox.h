// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) on the
// counters and keys of docs/sampling.md. Free of torch; the same words on host and device.
#pragma once

#include <cstdint>

#include "box_math.h"

namespace libra_d2 {

struct Words4 {
  uint32_t x, y, z, w;
};

LIBRA_HD uint32_t mul_hi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }

LIBRA_HD Words4 philox4x32_10(Words4 counter, uint32_t key0, uint32_t key1) {
  constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u, kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    counter = Words4{mul_hi(kMul1, counter.z) ^ counter.y ^ key0, kMul1 * counter.z,
                     mul_hi(kMul0, counter.x) ^ counter.w ^ key1, kMul0 * counter.x};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

enum class Domain : uint32_t { kBox = 0, kGroundTruth = 1 };

// The keys of one box (x: first, y: refill, z: top-up) or of one ground truth (x). `index` counts inside the image.
LIBRA_HD Words4 draw_keys(int64_t seed, int64_t index, int64_t image, Domain domain) {
  const uint64_t bits = static_cast<uint64_t>(seed);
  return philox4x32_10(
      Words4{static_cast<uint32_t>(index), static_cast<uint32_t>(image), static_cast<uint32_t>(domain), 0u},
      static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32));
}

}  // namespace libra_d2
