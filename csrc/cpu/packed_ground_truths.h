// Boxes split into one array a coordinate.
#pragma once

#include <vector>

#include "vector_kernels.h"

namespace libra_d2 {

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

}  // namespace libra_d2
