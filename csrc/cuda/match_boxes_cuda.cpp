#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "kernels.h"
#include "tensors.h"

namespace libra_d2 {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor> match_boxes_cuda(const Tensor& boxes, const Tensor& gt_boxes,
                                                    const std::optional<Tensor>& box_offsets, const Tensor& gt_offsets,
                                                    at::ArrayRef<double> thresholds, at::IntArrayRef labels,
                                                    bool allow_low_quality) {
  check_match_boxes(boxes, gt_boxes, box_offsets, gt_offsets);
  MatchArgs a{};
  a.rule = LabelRule::of(thresholds, labels);
  const c10::cuda::CUDAGuard guard(boxes.device());
  const int64_t images = gt_offsets.size(0) - 1, rows = boxes.size(0), num_gt = gt_boxes.size(0);
  const Tensor packed_boxes = aligned_boxes(boxes), packed_gts = aligned_boxes(gt_boxes);
  const Tensor gt_bounds = offsets_on(boxes.device(), gt_offsets);
  const Tensor box_bounds = box_offsets ? offsets_on(boxes.device(), *box_offsets) : Tensor();

  const at::DimVector shape = box_offsets ? at::DimVector{rows} : at::DimVector{images, rows};
  const auto options = boxes.options();
  Tensor matched_idx = at::empty(shape, options.dtype(at::kLong));
  Tensor matched_iou = at::empty(shape, options);
  Tensor matched_label = at::empty(shape, options.dtype(at::kChar));
  const Tensor column_max = at::zeros({allow_low_quality ? num_gt : 0}, options.dtype(at::kInt));

  a.boxes = box_pointer(packed_boxes);
  a.gt_boxes = box_pointer(packed_gts);
  a.gt_offsets = gt_bounds.const_data_ptr<int64_t>();
  a.num_gt = num_gt;
  a.batch = Batch{box_offsets ? box_bounds.const_data_ptr<int64_t>() : nullptr, images, rows};
  a.matched_idx = matched_idx.mutable_data_ptr<int64_t>();
  a.matched_iou = matched_iou.mutable_data_ptr<float>();
  a.matched_label = matched_label.mutable_data_ptr<int8_t>();
  a.column_max = reinterpret_cast<unsigned*>(column_max.mutable_data_ptr<int>());
  C10_CUDA_CHECK(match_boxes_on(c10::cuda::getCurrentCUDAStream(), a, allow_low_quality));
  return {matched_idx, matched_iou, matched_label};
}

}  // namespace

TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("match_boxes", match_boxes_cuda); }

}  // namespace libra_d2
