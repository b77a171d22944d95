// What the kernels are given, in plain C++: all that the torch side, the emulator and the kernels
// share. Pointers are to device memory.
#pragma once

#include <cstdint>

#include "../bucketed_sample.h"
#include "../match_boxes.h"

namespace libra_d2 {

// N images whose rows are packed by `offsets` (`rows` in all), or, without offsets, N images of
// `rows` rows each.
struct Batch {
  const int64_t* offsets;
  int64_t images, rows;
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

// Of one image. The maxima are ordered_bits, 0 where there is no such box.
struct Counts {
  uint32_t positives, negatives, floor, max_all, max_negative;
};
constexpr int64_t kCountWords = sizeof(Counts) / sizeof(uint32_t);

constexpr int kSelectCapacity = 4096;  // boxes of one sign that shared memory holds
constexpr int kListSlack = 16;         // by Poisson's tail a quota lacks boxes less than once in 10^12 draws

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
  return SampleRoom{room.spill, images, images * rule.num_strata(), images * 2, images * 2 * kCapacity};
}

}  // namespace libra_d2
