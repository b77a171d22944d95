#include <optional>
#include <tuple>
#include <vector>

#include "tensors_on_gpu.h"

namespace libra_d2 {
namespace {

std::tuple<Tensor, Tensor, Tensor> match_boxes_cuda(const Tensor& boxes, const Tensor& gt_boxes,
                                                    const std::optional<Tensor>& box_offsets, const Tensor& gt_offsets,
                                                    const std::vector<double>& thresholds,
                                                    const std::vector<int64_t>& labels, bool allow_low_quality) {
  check_match_boxes(boxes, gt_boxes, box_offsets, gt_offsets);
  MatchArgs a{};
  a.rule = LabelRule::of(thresholds, labels);
  const OnGpu gpu("match_boxes", boxes);
  const int64_t images = gt_offsets.size(0) - 1, rows = boxes.size(0), num_gt = gt_boxes.size(0);
  const Tensor packed_boxes = aligned_boxes(boxes), packed_gts = aligned_boxes(gt_boxes);
  const Tensor gt_bounds = gpu.offsets("gt_offsets", gt_offsets, boxes);
  std::optional<Tensor> box_bounds;
  if (box_offsets) box_bounds = gpu.offsets("box_offsets", *box_offsets, boxes);

  const std::vector<int64_t> shape = box_offsets ? std::vector<int64_t>{rows} : std::vector<int64_t>{images, rows};
  Tensor matched_idx = empty(boxes, shape, aoti_torch_dtype_int64());
  Tensor matched_iou = empty(boxes, shape, aoti_torch_dtype_float32());
  Tensor matched_label = empty(boxes, shape, aoti_torch_dtype_int8());
  const Tensor column_max = torch::stable::new_zeros(boxes, {allow_low_quality ? num_gt : 0}, ScalarType::Int);

  a.boxes = box_pointer(packed_boxes);
  a.gt_boxes = box_pointer(packed_gts);
  a.gt_offsets = gt_bounds.const_data_ptr<int64_t>();
  a.num_gt = num_gt;
  a.batch = Batch{box_bounds ? box_bounds->const_data_ptr<int64_t>() : nullptr, images, rows};
  a.matched_idx = matched_idx.mutable_data_ptr<int64_t>();
  a.matched_iou = matched_iou.mutable_data_ptr<float>();
  a.matched_label = matched_label.mutable_data_ptr<int8_t>();
  a.column_max = reinterpret_cast<unsigned*>(column_max.mutable_data_ptr<int>());
  STD_CUDA_CHECK(match_boxes_on(gpu.stream(), a, allow_low_quality));
  return {matched_idx, matched_iou, matched_label};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("match_boxes", TORCH_BOX(&match_boxes_cuda)); }

}  // namespace libra_d2
