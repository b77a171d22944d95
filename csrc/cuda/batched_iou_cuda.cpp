#include "tensors_on_gpu.h"

namespace libra_d2 {
namespace {

Tensor batched_iou_cuda(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& box_offsets,
                        const Tensor& gt_offsets, int64_t numel) {
  check_batched_iou(boxes, gt_boxes, box_offsets, gt_offsets, numel);
  const OnGpu gpu("batched_iou", boxes);
  const Tensor packed_boxes = aligned_boxes(boxes), packed_gts = aligned_boxes(gt_boxes);
  const Tensor box_bounds = gpu.offsets("box_offsets", box_offsets, boxes);
  const Tensor gt_bounds = gpu.offsets("gt_offsets", gt_offsets, boxes);
  Tensor ious = empty(boxes, {numel}, aoti_torch_dtype_float32());

  const Batch batch{box_bounds.const_data_ptr<int64_t>(), gt_offsets.size(0) - 1, boxes.size(0)};
  const int64_t* gt_begin = gt_bounds.const_data_ptr<int64_t>();
  const IouArgs a{{box_pointer(packed_boxes), box_pointer(packed_gts), gt_begin, gt_boxes.size(0), batch},
                  ious.mutable_data_ptr<float>(),
                  numel};
  STD_CUDA_CHECK(batched_iou_on(gpu.stream(), a));
  return ious;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("batched_iou", TORCH_BOX(&batched_iou_cuda)); }

}  // namespace libra_d2
