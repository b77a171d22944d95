// batched_iou for both backends: what it refuses. Free of torch.
#pragma once

#include <cstdint>

namespace at {
class Tensor;
}

namespace libra_d2 {

// The op's arguments. Offsets on the CPU are checked to the last value, and numel by them.
void check_batched_iou(const at::Tensor& boxes, const at::Tensor& gt_boxes, const at::Tensor& box_offsets,
                       const at::Tensor& gt_offsets, int64_t numel);

}  // namespace libra_d2
