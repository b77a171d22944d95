// What the kernels are given, in plain C++: all that the torch side, the emulator and the kernels
// share. Pointers are to device memory.
#pragma once

#include <cstdint>

#include "../box_math.h"
#include "exact_product.h"

namespace libra_d2 {

// N images whose rows are packed by `offsets` (`rows` in all), or, without offsets, N images of
// `rows` rows each.
struct Batch {
  const int64_t* offsets;
  int64_t images, rows;
};

constexpr int kMaxThresholds = 15;

// Passed by value: a kernel argument needs no copy to the device.
struct LabelRule {
  int num_thresholds;
  float thresholds[kMaxThresholds];
  int8_t labels[kMaxThresholds + 1];
};

struct MatchArgs {
  const Box* boxes;  // [batch.rows]; shared by the images where batch.offsets is null
  const Box* gt_boxes;
  const int64_t* gt_offsets;
  int64_t num_gt;
  Batch batch;
  LabelRule rule;
  int64_t* matched_idx;
  float* matched_iou;
  int8_t* matched_label;
  unsigned* column_max;  // [num_gt] zeros; the bits of each ground truth's best IoU
};

struct IouArgs {
  const Box* boxes;
  const Box* gt_boxes;
  const int64_t* gt_offsets;
  int64_t num_gt;
  Batch batch;
  float* ious;  // [total]: image after image, [R_n, G_n] row-major
  int64_t total;
};

enum class BinUpper : int { kFixed, kMaxAll, kMaxNegative };

struct SampleRule {
  uint32_t num_samples, max_positives;
  bool instance_balanced, iou_balanced;
  bool has_ub;
  ExactFactor neg_pos_ub;
  ExactFactor binned_share;  // 1 - floor_fraction
  float floor_thr, bin_upper;
  BinUpper upper_kind;
  int64_t num_bins;

  // From the op's arguments, in doubles, as Python computes them.
  static SampleRule of(int64_t num_samples, double positive_fraction, bool instance_balanced,
                       bool iou_balanced, int64_t num_bins, BinUpper upper_kind, double bin_upper,
                       double floor_thr, double floor_fraction, double neg_pos_ub) {
    SampleRule r{};
    r.num_samples = static_cast<uint32_t>(num_samples);
    r.max_positives = static_cast<uint32_t>(static_cast<double>(num_samples) * positive_fraction);
    r.instance_balanced = instance_balanced;
    r.iou_balanced = iou_balanced;
    r.has_ub = neg_pos_ub >= 0;
    r.neg_pos_ub = ExactFactor::of(r.has_ub ? neg_pos_ub : 0.0);
    r.binned_share = ExactFactor::of(1.0 - floor_fraction);
    r.floor_thr = static_cast<float>(floor_thr);
    r.bin_upper = static_cast<float>(bin_upper);
    r.upper_kind = upper_kind;
    r.num_bins = num_bins;
    return r;
  }

  // Boxes are told apart by stratum: the bins, BAL outside all bins, FLOOR. More bins than samples
  // give nothing each, so that they need not be told apart.
  LIBRA_HD uint32_t binned_strata() const {
    return num_bins <= num_samples ? static_cast<uint32_t>(num_bins) : 0u;
  }
  LIBRA_HD uint32_t unbinned_stratum() const { return binned_strata(); }
  LIBRA_HD uint32_t floor_stratum() const { return binned_strata() + 1; }
  LIBRA_HD uint32_t num_strata() const { return binned_strata() + 2; }
};

// Of one image. The maxima are ordered_bits, 0 where there is no such box.
struct Counts {
  uint32_t positives, negatives, floor, max_all, max_negative;
};
constexpr int64_t kCountWords = sizeof(Counts) / sizeof(uint32_t);

constexpr int kSelectCapacity = 4096;  // boxes of one sign that shared memory holds
constexpr int kListSlack = 32;

// Two bits beside a row's number are flags.
constexpr int64_t kMostRows = (int64_t{1} << 30) - 1;

struct SampleArgs {
  const int8_t* labels;
  const float* ious;
  const int64_t* matched_idx;
  Batch batch;  // with offsets
  const int64_t* seed;
  SampleRule rule;
  int64_t* indices;  // [images, num_samples]
  int64_t* num_positive;
  int64_t* num_negative;
  // Room for the boxes of images with more than `capacity` of one sign: [rows] each. May be null
  // where there are no more rows than that.
  uint64_t* spill_key;
  uint32_t* spill_row;
  // For the sweeps before select_kernel, zeroed but for `list`; null without them.
  Counts* counts;        // [images]
  uint32_t* strata;      // [images, num_strata]
  uint32_t* list_sizes;  // [images, 2]: negatives, positives
  uint32_t* list;        // [images, 2, capacity]
  int list_slack;        // kListSlack; the tests narrow it to make lists fail
};

// Elements that the scratch arrays of SampleArgs need.
struct SampleRoom {
  int64_t spill, counts, strata, list_sizes, list;
};

template <int kCapacity>
SampleRoom room_for_sample(const SampleRule& rule, int64_t images, int64_t rows, bool swept) {
  SampleRoom room{rows > kCapacity ? rows : 0, 0, 0, 0, 0};
  if (!swept) return room;
  return SampleRoom{room.spill, images, images * rule.num_strata(), images * 2,
                    images * 2 * kCapacity};
}

}  // namespace libra_d2
