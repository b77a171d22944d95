// int(n * f) where n * f is a product of doubles, without double arithmetic on the device. Some of
// the sampler's products have a factor that only the device knows (how many positives were taken).
#pragma once

#include <cmath>
#include <cstdint>

#include "box_math.h"

namespace libra_d2 {

// f = mantissa * 2^exponent, a finite double >= 0.
struct ExactFactor {
  uint64_t mantissa;  // below 2^53
  int exponent;

  static ExactFactor of(double f) {
    int exponent = 0;
    const double fraction = std::frexp(f, &exponent);
    return ExactFactor{static_cast<uint64_t>(std::ldexp(fraction, 53)), exponent - 53};
  }
};

// The product is formed exactly, in up to 85 bits, rounded to the 53 bits of a double as IEEE 754
// does (to nearest, ties to even), and truncated. From 2^61 on it is 2^62.
LIBRA_HD int64_t truncated_product(uint32_t n, const ExactFactor& f) {
  constexpr int64_t kMost = int64_t{1} << 62;
  const uint64_t low = (f.mantissa & 0xffffffffu) * n;
  uint64_t high = (f.mantissa >> 32) * n + (low >> 32);  // the bits above the lowest 32
  const uint64_t low32 = low & 0xffffffffu;
  int dropped = 0;
  while (high >> (21 + dropped)) ++dropped;  // at most 32
  uint64_t kept = (high << (32 - dropped)) | (low32 >> dropped);
  const uint64_t rest = low32 & ((uint64_t{1} << dropped) - 1);
  const uint64_t half = dropped > 0 ? uint64_t{1} << (dropped - 1) : 1;
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  const int exponent = f.exponent + dropped;
  if (kept == 0 || exponent <= -64) return 0;
  if (exponent < 0) return static_cast<int64_t>(kept >> -exponent);
  return exponent > 8 ? kMost : static_cast<int64_t>(kept << exponent);
}

}  // namespace libra_d2
