// The checks of tensors that the op headers declare, in the words of libra_d2/ops/_checks.py.
#include "checks.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/TensorAccessor.h>
#include <c10/util/Exception.h>

#include <iterator>
#include <optional>
#include <string>

#include "batched_iou.h"
#include "bucketed_sample.h"
#include "match_boxes.h"

namespace libra_d2 {
namespace {

using at::Tensor;

// As Python writes it; c10::getDtypeNames does that from torch 2.6 on.
std::string name_of(at::ScalarType dtype) {
  constexpr const char* names[] = {"uint8",   "int8",    "int16",     "int32",     "int64",      "float16",
                                   "float32", "float64", "complex32", "complex64", "complex128", "bool",
                                   "qint8",   "quint8",  "qint32",    "bfloat16"};
  const auto place = static_cast<size_t>(dtype);
  return std::string("torch.") + (place < std::size(names) ? names[place] : at::toString(dtype));
}

// Of one call: everything else has to be where its first tensor is.
struct Checks {
  const char* op;
  at::Device device;

  void dtype(const char* name, const Tensor& t, at::ScalarType wanted) const {
    TORCH_CHECK_TYPE(t.scalar_type() == wanted, op, ": expected ", name, " of dtype ", name_of(wanted), ", got ",
                     name_of(t.scalar_type()));
  }

  void tensor(const char* name, const Tensor& t, at::ScalarType wanted) const {
    dtype(name, t, wanted);
    TORCH_CHECK_VALUE(t.device() == device, op, ": expected ", name, " on ", device, ", got ", t.device());
  }

  void boxes(const char* name, const Tensor& t) const {
    tensor(name, t, at::kFloat);
    TORCH_CHECK_VALUE(t.dim() == 2 && t.size(1) == 4, op, ": expected ", name, " of shape [R, 4], got ", t.sizes());
  }

  void rows(const char* name, const Tensor& t, at::ScalarType wanted, int64_t rows) const {
    tensor(name, t, wanted);
    TORCH_CHECK_VALUE(t.dim() == 1 && t.size(0) == rows, op, ": expected ", name, " of shape [", rows,
                      "], one value a row, got ", t.sizes());
  }

  // Of `rows` rows; returns the number of images, which has to be `images` where that is given.
  int64_t offsets(const char* name, const Tensor& t, int64_t rows, int64_t images = -1) const {
    dtype(name, t, at::kLong);
    TORCH_CHECK_VALUE(t.device() == device || t.is_cpu(), op, ": expected ", name, " on ", device,
                      " or on the CPU, got ", t.device());
    TORCH_CHECK_VALUE(t.dim() == 1 && t.size(0) >= 1, op, ": expected ", name, " of shape [N + 1], got ", t.sizes());
    const int64_t last = t.size(0) - 1;
    TORCH_CHECK_VALUE(images < 0 || images == last, op, ": expected ", name, " for ", images, " images, got ", last);
    if (!t.is_cpu()) return last;
    const auto value = t.accessor<const int64_t, 1>();
    TORCH_CHECK_VALUE(value[0] == 0, op, ": expected ", name, " to start at 0, got ", value[0]);
    for (int64_t n = 0; n < last; ++n) {
      TORCH_CHECK_VALUE(value[n] <= value[n + 1], op, ": expected ", name, " not to decrease, got ", value[n],
                        " before ", value[n + 1]);
    }
    TORCH_CHECK_VALUE(value[last] == rows, op, ": expected ", name, " to end at ", rows, ", the number of rows, got ",
                      value[last]);
    return last;
  }

  void boxes_and_ground_truths(const Tensor& boxes, const Tensor& gt_boxes, const Tensor* box_offsets,
                               const Tensor& gt_offsets) const {
    this->boxes("boxes", boxes);
    this->boxes("gt_boxes", gt_boxes);
    const int64_t images = offsets("gt_offsets", gt_offsets, gt_boxes.size(0));
    if (box_offsets) offsets("box_offsets", *box_offsets, boxes.size(0), images);
  }
};

}  // namespace

void check_match_boxes(const Tensor& boxes, const Tensor& gt_boxes, const std::optional<Tensor>& box_offsets,
                       const Tensor& gt_offsets) {
  const Checks check{"match_boxes", boxes.device()};
  check.boxes_and_ground_truths(boxes, gt_boxes, box_offsets ? &*box_offsets : nullptr, gt_offsets);
  TORCH_CHECK_VALUE(gt_boxes.size(0) <= kMostGroundTruths, check.op, ": expected at most ", kMostGroundTruths,
                    " ground truths, got ", gt_boxes.size(0));
}

void check_batched_iou(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& box_offsets, const Tensor& gt_offsets,
                       int64_t numel) {
  const Checks check{"batched_iou", boxes.device()};
  check.boxes_and_ground_truths(boxes, gt_boxes, &box_offsets, gt_offsets);
  if (!box_offsets.is_cpu() || !gt_offsets.is_cpu()) {
    TORCH_CHECK_VALUE(numel >= 0, check.op, ": expected numel >= 0, got ", numel);
    return;
  }
  const auto box = box_offsets.accessor<const int64_t, 1>(), gt = gt_offsets.accessor<const int64_t, 1>();
  int64_t total = 0;
  for (int64_t n = 0; n + 1 < gt.size(0); ++n) total += (box[n + 1] - box[n]) * (gt[n + 1] - gt[n]);
  TORCH_CHECK_VALUE(numel == total, check.op, ": expected numel ", total, ", the size of all matrices, got ", numel);
}

void check_bucketed_sample(const Tensor& labels, const Tensor& ious, const Tensor& matched_idx, const Tensor& offsets,
                           const Tensor& seed) {
  const Checks check{"bucketed_sample", labels.device()};
  check.dtype("labels", labels, at::kChar);
  TORCH_CHECK_VALUE(labels.dim() == 1, check.op, ": expected labels of shape [R], got ", labels.sizes());
  const int64_t rows = labels.size(0);
  TORCH_CHECK_VALUE(rows <= kMostRows, check.op, ": expected at most ", kMostRows, " boxes, got ", rows);
  check.rows("ious", ious, at::kFloat, rows);
  check.rows("matched_idx", matched_idx, at::kLong, rows);
  check.offsets("offsets", offsets, rows);
  check.tensor("seed", seed, at::kLong);
  TORCH_CHECK_VALUE(seed.dim() == 0, check.op, ": expected seed of shape [], got ", seed.sizes());
}

}  // namespace libra_d2
