// The yardstick of bm_match.py: what a compiler makes of the obvious loop when it is given the best
// layout and every freedom (-march=native -ffast-math). Row maximum and argmax, column maximum.
#include <cmath>
#include <cstdint>

extern "C" void plain_match(const float* __restrict x1, const float* __restrict y1,
                            const float* __restrict x2, const float* __restrict y2,
                            const float* __restrict area, int64_t num_boxes, const float* gts,
                            int64_t num_gts, float* __restrict best, int32_t* __restrict index,
                            float* column_max) {
  for (int64_t i = 0; i < num_boxes; ++i) {
    best[i] = 0.f;
    index[i] = 0;
  }
  for (int64_t g = 0; g < num_gts; ++g) {
    const float gx1 = gts[4 * g], gy1 = gts[4 * g + 1], gx2 = gts[4 * g + 2], gy2 = gts[4 * g + 3];
    const float gt_area = (gx2 - gx1) * (gy2 - gy1);
    float highest = 0.f;
    for (int64_t i = 0; i < num_boxes; ++i) {
      const float w = std::fmax(std::fmin(gx2, x2[i]) - std::fmax(gx1, x1[i]), 0.f);
      const float h = std::fmax(std::fmin(gy2, y2[i]) - std::fmax(gy1, y1[i]), 0.f);
      const float inter = w * h;
      const float iou = inter / (gt_area + area[i] - inter);
      const float old = best[i];
      index[i] = iou > old ? static_cast<int32_t>(g) : index[i];
      best[i] = iou > old ? iou : old;
      highest = std::fmax(highest, iou);
    }
    column_max[g] = highest;
  }
}
