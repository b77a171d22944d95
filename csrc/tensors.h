// Tensors through torch's stable ABI: without a symbol of at or c10, so that one build serves every torch from 2.10 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace libra_d2 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Not filled, on the device of `like`. An allocation through the dispatcher, as new_empty's, costs a microsecond more
// than torch's own code pays, and an op makes three.
inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype, type, like.get_device_index(), &made));
  return Tensor(made);
}

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
