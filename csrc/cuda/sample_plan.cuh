// How many boxes an image gives from which set, by docs/sampling.md, once its boxes are counted.
#pragma once

#include "device.cuh"

namespace libra_d2 {

// Unsigned integers in the order of the floats.
__device__ inline uint32_t ordered_bits(float v) {
  const uint32_t bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float from_ordered_bits(uint32_t bits) {
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

struct Plan {
  uint32_t positives, negatives;  // to be taken
  bool by_iou;                    // the negatives, of which not all are taken; else the rest does not hold
  uint32_t balanced;              // from BAL, bins and refill together
  bool all_balanced;              // BAL has no more than that
  uint32_t per_bin, floor, top_up;
  IouBins bins;
};

__device__ inline Plan plan_of(const SampleRule& rule, const Counts& counts) {
  Plan plan{};
  plan.positives = min(counts.positives, rule.max_positives);
  const uint32_t wanted = rule.wanted_negatives(plan.positives);
  plan.negatives = min(counts.negatives, wanted);
  plan.by_iou = rule.iou_balanced && plan.negatives < counts.negatives;
  if (!plan.by_iou) return plan;

  const uint32_t bal = counts.negatives - counts.floor;
  const uint32_t share = rule.share_of(wanted);
  plan.balanced = min(bal, share);
  plan.all_balanced = bal <= share;
  plan.per_bin = rule.binned_strata() ? share / rule.binned_strata() : 0u;
  plan.floor = min(counts.floor, wanted - plan.balanced);
  plan.top_up = wanted - plan.balanced - plan.floor;
  const float upper = rule.upper_kind == BinUpper::kValue    ? rule.bin_upper
                      : rule.upper_kind == BinUpper::kMaxAll ? from_ordered_bits(counts.max_all)
                                                             : from_ordered_bits(counts.max_negative);
  plan.bins = rule.bins(upper);
  return plan;
}

__device__ inline uint32_t stratum_of(const SampleRule& rule, const Plan& plan, float iou) {
  if (rule.is_floor(iou)) return rule.floor_stratum();
  if (plan.per_bin == 0) return rule.unbinned_stratum();
  const int64_t bin = plan.bins.bin_of(iou);
  return bin < 0 ? rule.unbinned_stratum() : static_cast<uint32_t>(bin);
}

// How many the first keys choose from a stratum that has enough.
__device__ inline uint32_t quota_of(const SampleRule& rule, const Plan& plan, uint32_t stratum) {
  if (stratum == rule.floor_stratum()) return plan.floor;
  if (plan.all_balanced) return 0xffffffffu;
  return stratum == rule.unbinned_stratum() ? 0u : plan.per_bin;
}

// Lets through keys below a threshold that the `quota` smallest of `population` uniform keys stay
// under, all but surely. Whoever uses it checks; see select_kernel.
struct Sieve {
  uint64_t numerator;
  uint32_t population;

  __device__ bool passes(uint32_t key) const { return static_cast<uint64_t>(key) * population < numerator; }
};

__device__ inline Sieve open_sieve() { return Sieve{~uint64_t{0}, 0}; }

// `slack` + 8 to 16 standard deviations above the mean.
__device__ inline Sieve sieve_for(uint32_t quota, uint32_t population, int slack) {
  if (quota == 0) return Sieve{0, population};
  if (quota >= population) return open_sieve();
  const int bits = 32 - __clz(static_cast<int>(quota));  // sqrt(quota) <= 2^ceil(bits / 2)
  const int64_t bound = int64_t{quota} + (int64_t{8} << ((bits + 1) / 2)) + slack;
  return Sieve{static_cast<uint64_t>(max(bound, int64_t{0})) << 32, population};
}

}  // namespace libra_d2
