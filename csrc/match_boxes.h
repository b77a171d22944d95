// match_boxes for both backends: its rule, its limits and which numbers it refuses. Free of torch.
#pragma once

#include <cfloat>
#include <cstdint>
#include <optional>

#include "box_math.h"
#include "checks.h"

namespace libra_d2 {

constexpr size_t kMostThresholds = 15;
constexpr int64_t kMostGroundTruths = (int64_t{1} << 31) - 1;

// Matcher's rule: thresholds ascend, and labels[k] is that of thresholds[k - 1] <= IoU < thresholds[k]. Of a fixed
// size, since a kernel argument needs no copy to the device.
struct LabelRule {
  int num_thresholds;
  float thresholds[kMostThresholds];
  int8_t labels[kMostThresholds + 1];

  LIBRA_HD int8_t label_of(float iou) const {
    int k = 0;
    for (int i = 0; i < num_thresholds; ++i) k += iou >= thresholds[i];
    return labels[k];
  }

  // From the op's arguments, checked.
  template <class Doubles, class Integers>
  static LabelRule of(const Doubles& thresholds, const Integers& labels) {
    constexpr char op[] = "match_boxes";
    if (thresholds.size() > kMostThresholds) {
      refuse(op, ": expected at most ", kMostThresholds, " thresholds, got ", thresholds.size());
    }
    LabelRule rule{};
    double last = 0;
    for (const double threshold : thresholds) {
      check_finite(op, "thresholds", threshold);
      if (!(threshold >= FLT_MIN && threshold <= FLT_MAX)) {
        refuse(op, ": expected thresholds that are positive and finite in float32, got ", threshold);
      }
      if (threshold < last) refuse(op, ": expected ascending thresholds, got ", list_of(thresholds));
      rule.thresholds[rule.num_thresholds++] = static_cast<float>(last = threshold);
    }
    if (labels.size() != thresholds.size() + 1) {
      refuse(op, ": expected ", thresholds.size() + 1, " labels, one more than thresholds, got ", list_of(labels));
    }
    for (size_t k = 0; k < labels.size(); ++k) {
      if (labels[k] < -1 || labels[k] > 1) refuse(op, ": expected every label to be -1, 0 or 1, got ", labels[k]);
      rule.labels[k] = static_cast<int8_t>(labels[k]);
    }
    return rule;
  }
};

}  // namespace libra_d2
