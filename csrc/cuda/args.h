// What the kernels are given, in plain C++: all that the torch side, the emulator and the kernels
// share. Pointers are to device memory.
#pragma once

#include <cstdint>

#include "../bucketed_sample.h"
#include "../match_boxes.h"

namespace libra_d2 {

// N images whose rows are packed by `offsets` (`rows` in all), or, without offsets, N images of `rows` rows each.
struct Batch {
  const int64_t* offsets;
  int64_t images, rows;
};

struct BoxesAndGroundTruths {
  const Box* boxes;  // [batch.rows]; shared by the images where batch.offsets is null
  const Box* gt_boxes;
  const int64_t* gt_offsets;
  int64_t num_gt;
  Batch batch;
};

struct MatchArgs : BoxesAndGroundTruths {
  LabelRule rule;
  int64_t* matched_idx;
  float* matched_iou;
  int8_t* matched_label;
  unsigned* column_max;  // [num_gt] zeros; the bits of each ground truth's best IoU
};

struct IouArgs : BoxesAndGroundTruths {
  float* ious;  // [total]: image after image, [R_n, G_n] row-major
  int64_t total;
};

// Of one image. The maxima are ordered_bits, 0 where there is no such box.
struct Counts {
  uint32_t positives, negatives, floor, max_all, max_negative;
  uint32_t listed[2];  // negatives, positives, where an image is swept
};

constexpr int64_t kMostUnswept = 4096;  // rows an image, on average, that select_kernel had better count itself
constexpr int kListSlack = 16;          // by Poisson's tail a quota lacks boxes less than once in 10^12 draws

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
  uint32_t* list;    // [list_words]
  Counts* counts;    // [images] zeros for the sweeps before select_kernel; null without them
  uint32_t* strata;  // [images, num_strata] likewise
  int list_slack;    // kListSlack; the tests narrow it to make lists fail

  // A word for each row, and then a bit for each.
  int64_t list_words() const { return batch.rows + batch.rows / 32 + batch.images; }
  int64_t sweep_words() const { return batch.images * (int64_t{sizeof(Counts) / 4} + rule.num_strata()); }
};

}  // namespace libra_d2
