// Tensors through torch's stable ABI: without a symbol of at or c10, so that one build serves every torch from 2.10 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

namespace libra_d2 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// What the ops refuse of their tensors. Offsets on the CPU are checked to the last value, and numel by them; those on a
// device are not.
void check_match_boxes(const Tensor& boxes, const Tensor& gt_boxes, const std::optional<Tensor>& box_offsets,
                       const Tensor& gt_offsets);
void check_batched_iou(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& box_offsets, const Tensor& gt_offsets,
                       int64_t numel);
void check_bucketed_sample(const Tensor& labels, const Tensor& ious, const Tensor& matched_idx, const Tensor& offsets,
                           const Tensor& seed);

}  // namespace libra_d2
