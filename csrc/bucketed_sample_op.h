// bucketed_sample as torch calls it: checks and outputs, the same for every device, around what a device does.
#pragma once

#include <string>
#include <tuple>

#include "bucketed_sample.h"
#include "tensors.h"

namespace libra_d2 {

// The tensors of one call; rows are those of all images.
struct SampleTensors {
  const Tensor &labels, &ious, &matched_idx, &offsets, &seed;
  const int64_t num_samples;
  const int64_t images = offsets.size(0) - 1, rows = labels.size(0);
  Tensor indices = empty(labels, {images, num_samples}, aoti_torch_dtype_int64());
  Tensor num_positive = empty(labels, {images}, aoti_torch_dtype_int64());
  Tensor num_negative = empty(labels, {images}, aoti_torch_dtype_int64());
};

// `draw` fills the outputs; there is at least one image then.
template <void (*draw)(const SampleRule&, SampleTensors&)>
std::tuple<Tensor, Tensor, Tensor> bucketed_sample(const Tensor& labels, const Tensor& ious, const Tensor& matched_idx,
                                                   const Tensor& offsets, const Tensor& seed, int64_t num_samples,
                                                   double positive_fraction, const std::string& positive,
                                                   const std::string& negative, int64_t num_bins,
                                                   const std::string& bin_upper, double bin_upper_value,
                                                   double floor_thr, double floor_fraction, double neg_pos_ub) {
  check_bucketed_sample(labels, ious, matched_idx, offsets, seed);
  const SampleRule rule = SampleRule::of(num_samples, positive_fraction, positive, negative, num_bins, bin_upper,
                                         bin_upper_value, floor_thr, floor_fraction, neg_pos_ub);
  SampleTensors t{labels, ious, matched_idx, offsets, seed, num_samples};
  if (t.images > 0) draw(rule, t);
  return {t.indices, t.num_positive, t.num_negative};
}

}  // namespace libra_d2
