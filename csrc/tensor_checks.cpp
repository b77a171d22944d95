// The checks of tensors, in the words of libra_d2/ops/_checks.py.
#include <iterator>
#include <optional>
#include <string>

#include "bucketed_sample.h"
#include "checks.h"
#include "match_boxes.h"
#include "tensors.h"

namespace libra_d2 {
namespace {

using torch::headeronly::DeviceType;
using torch::stable::Device;

// As Python writes it.
std::string name_of(ScalarType dtype) {
  constexpr const char* names[] = {"uint8",   "int8",    "int16",     "int32",     "int64",      "float16",
                                   "float32", "float64", "complex32", "complex64", "complex128", "bool",
                                   "qint8",   "quint8",  "qint32",    "bfloat16"};
  const auto place = static_cast<size_t>(dtype);
  return std::string("torch.") + (place < std::size(names) ? names[place] : torch::headeronly::toString(dtype));
}

std::string name_of(const Device& device) {
  const std::string type = device.is_cpu()                     ? "cpu"
                           : device.is_cuda()                  ? "cuda"
                           : device.type() == DeviceType::Meta ? "meta"
                                                               : "another device";
  return device.has_index() && !device.is_cpu() ? type + ":" + std::to_string(device.index()) : type;
}

// Of one call: everything else has to be where its first tensor is.
struct Checks {
  const char* op;
  Device device;

  template <class... Parts>
  void expect(bool right, const Parts&... parts) const {
    if (!right) refuse(op, ": expected ", parts...);
  }

  void dtype(const char* name, const Tensor& t, ScalarType wanted) const {
    const ScalarType found = t.scalar_type();
    if (found != wanted) expect(false, name, " of dtype ", name_of(wanted), ", got ", name_of(found));
  }

  void tensor(const char* name, const Tensor& t, ScalarType wanted) const {
    dtype(name, t, wanted);
    const Device found = t.device();
    if (!(found == device)) expect(false, name, " on ", name_of(device), ", got ", name_of(found));
  }

  void shape(bool right, const char* name, const Tensor& t, const std::string& wanted) const {
    if (!right) expect(false, name, " of shape ", wanted, ", got ", list_of(t.sizes()));
  }

  void boxes(const char* name, const Tensor& t) const {
    tensor(name, t, ScalarType::Float);
    shape(t.dim() == 2 && t.size(1) == 4, name, t, "[R, 4]");
  }

  void rows(const char* name, const Tensor& t, ScalarType wanted, int64_t rows) const {
    tensor(name, t, wanted);
    shape(t.dim() == 1 && t.size(0) == rows, name, t, "[" + std::to_string(rows) + "], one value a row");
  }

  // Of `rows` rows; returns the number of images, which has to be `images` where that is given.
  int64_t offsets(const char* name, const Tensor& t, int64_t rows, int64_t images = -1) const {
    dtype(name, t, ScalarType::Long);
    const Device found = t.device();
    if (!(found == device || found.is_cpu())) {
      expect(false, name, " on ", name_of(device), " or on the CPU, got ", name_of(found));
    }
    shape(t.dim() == 1 && t.size(0) >= 1, name, t, "[N + 1]");
    const int64_t last = t.size(0) - 1;
    expect(images < 0 || images == last, name, " for ", images, " images, got ", last);
    if (!found.is_cpu()) return last;
    const Tensor bounds = packed(t);
    const int64_t* value = bounds.const_data_ptr<int64_t>();
    expect(value[0] == 0, name, " to start at 0, got ", value[0]);
    for (int64_t n = 0; n < last; ++n) {
      expect(value[n] <= value[n + 1], name, " not to decrease, got ", value[n], " before ", value[n + 1]);
    }
    expect(value[last] == rows, name, " to end at ", rows, ", the number of rows, got ", value[last]);
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
  const int64_t num_gt = gt_boxes.size(0);
  check.expect(num_gt <= kMostGroundTruths, "at most ", kMostGroundTruths, " ground truths, got ", num_gt);
}

void check_batched_iou(const Tensor& boxes, const Tensor& gt_boxes, const Tensor& box_offsets, const Tensor& gt_offsets,
                       int64_t numel) {
  const Checks check{"batched_iou", boxes.device()};
  check.boxes_and_ground_truths(boxes, gt_boxes, &box_offsets, gt_offsets);
  if (!box_offsets.is_cpu() || !gt_offsets.is_cpu()) {
    check.expect(numel >= 0, "numel >= 0, got ", numel);
    return;
  }
  const Tensor box_bounds = packed(box_offsets), gt_bounds = packed(gt_offsets);
  const int64_t *box = box_bounds.const_data_ptr<int64_t>(), *gt = gt_bounds.const_data_ptr<int64_t>();
  int64_t total = 0;
  for (int64_t n = 0; n + 1 < gt_offsets.size(0); ++n) total += (box[n + 1] - box[n]) * (gt[n + 1] - gt[n]);
  check.expect(numel == total, "numel ", total, ", the size of all matrices, got ", numel);
}

void check_bucketed_sample(const Tensor& labels, const Tensor& ious, const Tensor& matched_idx, const Tensor& offsets,
                           const Tensor& seed) {
  const Checks check{"bucketed_sample", labels.device()};
  check.dtype("labels", labels, ScalarType::Char);
  check.shape(labels.dim() == 1, "labels", labels, "[R]");
  const int64_t rows = labels.size(0);
  check.expect(rows <= kMostRows, "at most ", kMostRows, " boxes, got ", rows);
  check.rows("ious", ious, ScalarType::Float, rows);
  check.rows("matched_idx", matched_idx, ScalarType::Long, rows);
  check.offsets("offsets", offsets, rows);
  check.tensor("seed", seed, ScalarType::Long);
  check.shape(seed.dim() == 0, "seed", seed, "[]");
}

}  // namespace libra_d2
