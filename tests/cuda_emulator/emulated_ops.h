#pragma once

#include <cstdint>

extern "C" {

// Thread order (0 forward, 1 reverse, 2 random), its seed, and whether threads yield at atomics.
void emulated_options(int order, uint64_t seed, int yield_at_atomics);

// Kernels launched since the last call of emulated_options.
int emulated_launches();

// Why the last call that returned -1 did so.
const char* emulated_refusal();

// Boxes are 16-byte aligned; box_offsets may be null: boxes shared by all images.
int emulated_match(const float* boxes, const float* gt_boxes, const int64_t* box_offsets, const int64_t* gt_offsets,
                   int64_t images, int64_t rows, int64_t num_gt, const double* thresholds, int64_t num_thresholds,
                   const int64_t* labels, int64_t num_labels, int allow_low_quality, int64_t* matched_idx,
                   float* matched_iou, int8_t* matched_label);

void emulated_iou(const float* boxes, const float* gt_boxes, const int64_t* box_offsets, const int64_t* gt_offsets,
                  int64_t images, int64_t rows, int64_t num_gt, float* ious, int64_t total);

// `swept` takes the lists made by the grid-wide kernels, with `list_slack` (16 in production) to spare. Returns whether
// one of them was not trusted.
int emulated_sample(const int8_t* labels, const float* ious, const int64_t* matched_idx, const int64_t* offsets,
                    int64_t images, int64_t rows, int64_t seed, int64_t num_samples, double positive_fraction,
                    const char* positive, const char* negative, int64_t num_bins, const char* bin_upper,
                    double bin_upper_value, double floor_thr, double floor_fraction, double neg_pos_ub, int swept,
                    int list_slack, int threads, int64_t* indices, int64_t* num_positive, int64_t* num_negative);
}
