#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "kernels.h"
#include "tensors.h"

namespace libra_d2 {
namespace {

using at::Tensor;

constexpr char kOp[] = "match_boxes";

std::tuple<Tensor, Tensor, Tensor> match_boxes_cuda(const Tensor& boxes, const Tensor& gt_boxes,
                                                    const std::optional<Tensor>& box_offsets,
                                                    const Tensor& gt_offsets,
                                                    at::ArrayRef<double> thresholds,
                                                    at::IntArrayRef labels,
                                                    bool allow_low_quality) {
  check_boxes(kOp, "boxes", boxes, boxes.device());
  check_boxes(kOp, "gt_boxes", gt_boxes, boxes.device());
  check_offsets(kOp, "gt_offsets", gt_offsets, boxes.device());
  if (box_offsets) {
    check_offsets(kOp, "box_offsets", *box_offsets, boxes.device());
    check_images(kOp, "box_offsets", *box_offsets, gt_offsets.size(0) - 1);
  }
  TORCH_CHECK_VALUE(thresholds.size() <= kMaxThresholds, kOp, ": expected at most ", kMaxThresholds,
                    " thresholds on CUDA, got ", thresholds.size());
  TORCH_CHECK_VALUE(labels.size() == thresholds.size() + 1, kOp, ": expected ",
                    thresholds.size() + 1, " labels, got ", labels.size());
  const c10::cuda::CUDAGuard guard(boxes.device());
  const int64_t images = gt_offsets.size(0) - 1, rows = boxes.size(0), num_gt = gt_boxes.size(0);
  const Tensor packed_boxes = aligned_boxes(boxes), packed_gts = aligned_boxes(gt_boxes);
  const Tensor gt_bounds = offsets_on(kOp, "gt_offsets", gt_offsets, gt_boxes);
  const Tensor box_bounds =
      box_offsets ? offsets_on(kOp, "box_offsets", *box_offsets, boxes) : Tensor();

  const at::DimVector shape = box_offsets ? at::DimVector{rows} : at::DimVector{images, rows};
  const auto options = boxes.options();
  Tensor matched_idx = at::empty(shape, options.dtype(at::kLong));
  Tensor matched_iou = at::empty(shape, options);
  Tensor matched_label = at::empty(shape, options.dtype(at::kChar));
  const Tensor column_max = at::zeros({allow_low_quality ? num_gt : 0}, options.dtype(at::kInt));

  MatchArgs a{};
  a.boxes = box_pointer(packed_boxes);
  a.gt_boxes = box_pointer(packed_gts);
  a.gt_offsets = gt_bounds.const_data_ptr<int64_t>();
  a.num_gt = num_gt;
  a.batch = Batch{box_offsets ? box_bounds.const_data_ptr<int64_t>() : nullptr, images, rows};
  a.rule.num_thresholds = static_cast<int>(thresholds.size());
  std::copy(thresholds.begin(), thresholds.end(), a.rule.thresholds);
  std::copy(labels.begin(), labels.end(), a.rule.labels);
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
