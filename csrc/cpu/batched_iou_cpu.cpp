// batched_iou on the CPU: the boxes of all images in parallel, a row of the matrix each.
#include <algorithm>
#include <vector>

#include "../tensors.h"
#include "vector_kernels.h"

namespace libra_d2 {
namespace {

Tensor batched_iou_cpu(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& box_offsets, const Tensor& gt_offsets,
                       int64_t numel) {
  check_batched_iou(boxes, gt_boxes, box_offsets, gt_offsets, numel);
  const int64_t images = gt_offsets.size(0) - 1;
  const Tensor box_bounds = packed(box_offsets), gt_bounds = packed(gt_offsets);
  const int64_t* box_begin = box_bounds.const_data_ptr<int64_t>();
  const int64_t* gt_begin = gt_bounds.const_data_ptr<int64_t>();

  std::vector<int64_t> matrix_begin(images + 1, 0);
  for (int64_t n = 0; n < images; ++n) {
    matrix_begin[n + 1] = matrix_begin[n] + (box_begin[n + 1] - box_begin[n]) * (gt_begin[n + 1] - gt_begin[n]);
  }
  Tensor ious = empty(boxes, {numel}, aoti_torch_dtype_float32());
  if (numel == 0) return ious;

  const Tensor packed_boxes = packed(boxes), packed_gts = packed(gt_boxes);
  const PackedGroundTruths gts(packed_gts.const_data_ptr<float>(), gt_boxes.size(0));
  const float* box_values = packed_boxes.const_data_ptr<float>();
  float* out = ious.mutable_data_ptr<float>();
  const VectorKernels& kernels = best_vector_kernels();
  const int64_t grain = 1 + (int64_t{1} << 16) * boxes.size(0) / numel;
  torch::stable::parallel_for(0, boxes.size(0), grain, [&](int64_t begin, int64_t end) {
    int64_t n = std::upper_bound(box_begin, box_begin + images + 1, begin) - box_begin - 1;
    for (int64_t row = begin; row < end; ++row) {
      while (row >= box_begin[n + 1]) ++n;
      const GroundTruths own = gts.rows(gt_begin[n], gt_begin[n + 1]);
      kernels.iou_row(sanitized(load_box(box_values + 4 * row)), own,
                      out + matrix_begin[n] + (row - box_begin[n]) * own.count);
    }
  });
  return ious;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CPU, m) { m.impl("batched_iou", TORCH_BOX(&batched_iou_cpu)); }

}  // namespace libra_d2
