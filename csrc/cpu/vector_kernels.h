// The inner loops of the ops, compiled for several instruction sets: a tile of boxes against the
// ground truths of an image, and random keys.
#pragma once

#include <cstdint>
#include <vector>

#include "../bucketed_sample.h"
#include "../match_boxes.h"
#include "../philox.h"

namespace libra_d2 {

// Boxes that are looked at together. Few enough that neighbouring anchors cover little of the
// image, so most ground truths can be skipped; enough that finding those costs little.
constexpr int64_t kTile = 128;
constexpr int64_t kLanes = 16;  // boxes in the widest vector

// Box coordinates, one array each; up to the next multiple of kLanes the rows beyond `count` are empty boxes.
struct alignas(64) BoxTile {
  float x1[kTile], y1[kTile], x2[kTile], y2[kTile], area[kTile];
  Box bounds;  // of the boxes that are not empty
  int64_t count;
};

// The best match of each box of a tile.
struct alignas(64) TileMatch {
  float iou[kTile];
  int32_t index[kTile];
};

// Ground truths of one image, one array a coordinate.
struct GroundTruths {
  const float *x1, *y1, *x2, *y2, *area;
  int64_t count;
};

// The ground truths of a batch; those with a non-finite coordinate become empty boxes.
class PackedGroundTruths {
 public:
  PackedGroundTruths(const float* boxes, int64_t count) : count_(count), values_(5 * count) {
    for (int64_t g = 0; g < count; ++g) {
      const Box box = sanitized(load_box(boxes + 4 * g));
      const float row[5] = {box.x1, box.y1, box.x2, box.y2, area_of(box)};
      for (int64_t c = 0; c < 5; ++c) values_[c * count + g] = row[c];
    }
  }

  GroundTruths rows(int64_t begin, int64_t end) const {
    const float* p = values_.data() + begin;
    return {p, p + count_, p + 2 * count_, p + 3 * count_, p + 4 * count_, end - begin};
  }

 private:
  int64_t count_;
  std::vector<float> values_;
};

struct VectorKernels {
  void (*load_tile)(const float* boxes, int64_t count, BoxTile* tile);

  // Writes the ground truths that may overlap the tile, in ascending order, and returns how many.
  // Given the best IoU of each, it leaves out those with none and those that are above `reach`.
  int64_t (*select_ground_truths)(const BoxTile& tile, const GroundTruths& gts, const float* best, float reach,
                                  int32_t* selected);

  // Matches the tile to the selected ground truths. column_max, if not null, holds kLanes running
  // maxima for each ground truth of the image, 64-byte aligned.
  void (*match_tile)(const BoxTile& tile, const GroundTruths& gts, const int32_t* selected, int64_t num_selected,
                     TileMatch* match, float* column_max);

  // Labels and writes the matches; returns their highest IoU.
  float (*store_match)(const TileMatch& match, int64_t count, const LabelRule& rule, int64_t* index, float* iou,
                       int8_t* label);

  // Labels 1 each box that has the best IoU of a selected ground truth. matched_iou: of each box.
  void (*label_ties)(const BoxTile& tile, const GroundTruths& gts, const int32_t* selected, int64_t num_selected,
                     const float* best, const float* matched_iou, int8_t* label);

  // bin[i] of docs/sampling.md for each IoU, -1 for none. NaN counts as 0.
  void (*find_bins)(const IouBins& bins, const float* iou, int64_t count, int32_t* bin);

  // IoU of one box with all ground truths.
  void (*iou_row)(const Box& box, const GroundTruths& gts, float* iou);

  // Words x, y and z of the boxes with these indices.
  void (*draw_box_keys)(int64_t seed, int64_t image, const int32_t* index, int64_t count, uint32_t* x, uint32_t* y,
                        uint32_t* z);
};

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

const VectorKernels& vector_kernels(InstructionSet isa);

// The best that the processor has and ATEN_CPU_CAPABILITY, which lowers torch's own choice, allows.
InstructionSet best_instruction_set();
inline const VectorKernels& best_vector_kernels() {
  static const VectorKernels& kernels = vector_kernels(best_instruction_set());
  return kernels;
}

}  // namespace libra_d2
