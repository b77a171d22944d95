#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "../batched_iou.h"
#include "kernels.h"
#include "tensors.h"

namespace libra_d2 {
namespace {

using at::Tensor;

Tensor batched_iou_cuda(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& box_offsets,
                        const Tensor& gt_offsets, int64_t numel) {
  check_batched_iou(boxes, gt_boxes, box_offsets, gt_offsets, numel);
  const c10::cuda::CUDAGuard guard(boxes.device());
  const Tensor packed_boxes = aligned_boxes(boxes), packed_gts = aligned_boxes(gt_boxes);
  const Tensor box_bounds = offsets_on(boxes.device(), box_offsets);
  const Tensor gt_bounds = offsets_on(boxes.device(), gt_offsets);
  Tensor ious = at::empty({numel}, boxes.options());

  IouArgs a{};
  a.boxes = box_pointer(packed_boxes);
  a.gt_boxes = box_pointer(packed_gts);
  a.gt_offsets = gt_bounds.const_data_ptr<int64_t>();
  a.num_gt = gt_boxes.size(0);
  a.batch = Batch{box_bounds.const_data_ptr<int64_t>(), gt_offsets.size(0) - 1, boxes.size(0)};
  a.ious = ious.mutable_data_ptr<float>();
  a.total = numel;
  C10_CUDA_CHECK(batched_iou_on(c10::cuda::getCurrentCUDAStream(), a));
  return ious;
}

}  // namespace

TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("batched_iou", batched_iou_cuda); }

}  // namespace libra_d2
