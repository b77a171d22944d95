// bucketed_sample for both backends: its rule (docs/sampling.md), its limits and which numbers it refuses. Free of
// torch.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <string>

#include "box_math.h"
#include "checks.h"

namespace libra_d2 {

constexpr int64_t kMostRows = (int64_t{1} << 30) - 1;  // the CUDA kernels keep two flags beside a row's number
constexpr int64_t kMostSamples = 1 << 24;
constexpr int64_t kMostBins = 1 << 16;

// A NaN IoU handed in by the caller counts as 0.
LIBRA_HD float clean_iou(float iou) { return iou == iou ? iou : 0.f; }

// The K IoU bins: bin k is [edge(k), edge(k + 1)); a closed top bin is [edge(K - 1), hi].
struct IouBins {
  float lo, hi, width;
  int64_t count;
  bool closed;

  LIBRA_HD float edge(int64_t k) const { return add_rn(lo, mul_rn(static_cast<float>(k), width)); }

  // The bin of a cleaned IoU, -1 if it is in none.
  LIBRA_HD int64_t bin_of(float iou) const {
    if (!(edge(0) <= iou)) return -1;
    int64_t first = 0, last = count - 1;  // they enclose the largest k with edge(k) <= iou: edges do not descend
    while (first < last) {
      const int64_t mid = last - (last - first) / 2;
      if (edge(mid) <= iou) {
        first = mid;
      } else {
        last = mid - 1;
      }
    }
    const bool below_top = first < count - 1 || (closed ? iou <= hi : iou < edge(count));
    return below_top ? first : -1;
  }
};

enum class BinUpper : int { kValue, kMaxAll, kMaxNegative };

struct SampleRule {
  uint32_t num_samples, max_positives;
  bool instance_balanced, iou_balanced;
  bool has_ub;
  double neg_pos_ub;
  double binned_share;  // 1 - floor_fraction
  float floor_thr, bin_upper;
  BinUpper upper_kind;
  int64_t num_bins;

  // How many negatives to take, if there are as many. Products are of doubles, as Python computes them; on the GPU one
  // thread of a block does.
  LIBRA_HD uint32_t wanted_negatives(uint32_t positives) const {
    const uint32_t wanted = num_samples - positives;
    if (!has_ub) return wanted;
    const double bound = mul_rn(static_cast<double>(positives > 0 ? positives : 1), neg_pos_ub);
    return bound < static_cast<double>(wanted) ? static_cast<uint32_t>(bound) : wanted;
  }

  // How many of them FLOOR leaves to BAL.
  LIBRA_HD uint32_t share_of(uint32_t wanted) const {
    return static_cast<uint32_t>(mul_rn(static_cast<double>(wanted), binned_share));
  }

  // Whether a negative with this cleaned IoU is in FLOOR; else it is in BAL.
  LIBRA_HD bool is_floor(float iou) const { return floor_thr == 0.f ? iou == 0.f : iou < floor_thr && floor_thr > 0.f; }

  // `upper` is what upper_kind says.
  LIBRA_HD IouBins bins(float upper) const {
    const float lo = max_of(floor_thr, 0.f);
    return IouBins{lo, upper, div_rn(sub_rn(upper, lo), static_cast<float>(num_bins)), num_bins,
                   upper_kind != BinUpper::kMaxAll};
  }

  // The CUDA kernels tell boxes apart by stratum: the bins, BAL outside all bins, FLOOR. More bins than samples give
  // nothing each, so that they need not be told apart.
  LIBRA_HD uint32_t binned_strata() const { return num_bins <= num_samples ? static_cast<uint32_t>(num_bins) : 0u; }
  LIBRA_HD uint32_t unbinned_stratum() const { return binned_strata(); }
  LIBRA_HD uint32_t floor_stratum() const { return binned_strata() + 1; }
  LIBRA_HD uint32_t num_strata() const { return binned_strata() + 2; }

  // From the op's arguments, checked.
  static SampleRule of(int64_t num_samples, double positive_fraction, const std::string& positive,
                       const std::string& negative, int64_t num_bins, const std::string& bin_upper,
                       double bin_upper_value, double floor_thr, double floor_fraction, double neg_pos_ub) {
    constexpr char op[] = "bucketed_sample";
    check_count(op, "num_samples", num_samples, kMostSamples);
    check_fraction(op, "positive_fraction", positive_fraction);
    SampleRule r{};
    r.instance_balanced = choice(op, "positive", positive, {"instance_balanced", "random"}) == 0;
    r.iou_balanced = choice(op, "negative", negative, {"iou_balanced", "random"}) == 0;
    check_count(op, "num_bins", num_bins, kMostBins);
    check_finite(op, "floor_thr", floor_thr);
    if (std::abs(floor_thr) > FLT_MAX) refuse(op, ": expected floor_thr to be finite in float32, got ", floor_thr);
    check_fraction(op, "floor_fraction", floor_fraction);
    check_finite(op, "neg_pos_ub", neg_pos_ub);
    r.num_samples = static_cast<uint32_t>(num_samples);
    r.max_positives = static_cast<uint32_t>(static_cast<double>(num_samples) * positive_fraction);
    r.has_ub = neg_pos_ub >= 0;
    r.neg_pos_ub = neg_pos_ub;
    r.binned_share = 1.0 - floor_fraction;
    r.num_bins = num_bins;
    r.floor_thr = std::abs(floor_thr) < FLT_MIN ? 0.f : static_cast<float>(floor_thr);
    if (bin_upper == "value") {
      check_finite(op, "bin_upper", bin_upper_value);
      r.bin_upper = bin_upper_value <= FLT_MAX ? static_cast<float>(bin_upper_value) : 0.f;
      if (!(r.bin_upper > max_of(r.floor_thr, 0.f))) {
        refuse(op, ": expected bin_upper above max(floor_thr, 0) = ", floor_thr > 0 ? text_of(floor_thr) : "0",
               ", in float32, got ", bin_upper_value);
      }
    } else {
      r.upper_kind = static_cast<BinUpper>(1 + choice(op, "bin_upper", bin_upper, {"max_all", "max_neg"}));
    }
    return r;
  }
};

}  // namespace libra_d2
