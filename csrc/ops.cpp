// The schemas of the ops. Implementations register themselves for their device in cpu/ and cuda/;
// libra_d2/ops/_library.py adds the fake kernels and, for every other device, the reference in pure torch.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(libra_d2, m) {
  // Best ground truth, its IoU and the label of every box. Without box_offsets the boxes [A, 4] are
  // shared by all images and the outputs are [N, A].
  m.def(
      "match_boxes(Tensor boxes, Tensor gt_boxes, Tensor? box_offsets, Tensor gt_offsets, "
      "float[] thresholds, int[] labels, bool allow_low_quality) -> (Tensor, Tensor, Tensor)");
  // The IoU matrices [R_n, G_n] of all images, one after the other; numel is their total size.
  m.def("batched_iou(Tensor boxes, Tensor gt_boxes, Tensor box_offsets, Tensor gt_offsets, SymInt numel) -> Tensor");
  // Indices [N, num_samples] of the drawn boxes, numbers of positives and negatives:
  // docs/sampling.md. bin_upper is "value" (bin_upper_value counts), "max_all" or "max_neg".
  m.def(
      "bucketed_sample(Tensor labels, Tensor ious, Tensor matched_idx, Tensor offsets, Tensor seed, "
      "SymInt num_samples, float positive_fraction, str positive, str negative, int num_bins, str bin_upper, "
      "float bin_upper_value, float floor_thr, float floor_fraction, float neg_pos_ub) -> (Tensor, Tensor, Tensor)");
}
