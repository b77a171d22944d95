// bucketed_sample on the CPU: images in parallel.
#include <string>
#include <tuple>

#include "../tensors.h"
#include "image_sampler.h"

namespace libra_d2 {
namespace {

std::tuple<Tensor, Tensor, Tensor> bucketed_sample_cpu(const Tensor& labels, const Tensor& ious,
                                                       const Tensor& matched_idx, const Tensor& offsets,
                                                       const Tensor& seed, int64_t num_samples,
                                                       double positive_fraction, const std::string& positive,
                                                       const std::string& negative, int64_t num_bins,
                                                       const std::string& bin_upper, double bin_upper_value,
                                                       double floor_thr, double floor_fraction, double neg_pos_ub) {
  check_bucketed_sample(labels, ious, matched_idx, offsets, seed);
  const SampleRule rule = SampleRule::of(num_samples, positive_fraction, positive, negative, num_bins, bin_upper,
                                         bin_upper_value, floor_thr, floor_fraction, neg_pos_ub);
  const int64_t rows = labels.size(0);
  const int64_t images = offsets.size(0) - 1;
  Tensor indices = empty(labels, {images, num_samples}, aoti_torch_dtype_int64());
  Tensor num_positive = empty(labels, {images}, aoti_torch_dtype_int64());
  Tensor num_negative = empty(labels, {images}, aoti_torch_dtype_int64());

  const Tensor packed_labels = packed(labels), packed_ious = packed(ious), packed_idx = packed(matched_idx),
               bounds = packed(offsets);
  const int8_t* label_values = packed_labels.const_data_ptr<int8_t>();
  const float* iou_values = packed_ious.const_data_ptr<float>();
  const int64_t* idx_values = packed_idx.const_data_ptr<int64_t>();
  const int64_t* begin_of = bounds.const_data_ptr<int64_t>();
  int64_t* out = indices.mutable_data_ptr<int64_t>();
  int64_t* positives = num_positive.mutable_data_ptr<int64_t>();
  int64_t* negatives = num_negative.mutable_data_ptr<int64_t>();
  // Waking a thread for less, a fraction of a millisecond, loses more on a busy machine than it
  // wins.
  constexpr int64_t kRowsPerTask = 1 << 15;
  const int64_t grain = 1 + kRowsPerTask * images / (rows + 1);
  torch::stable::parallel_for(0, images, grain, [&](int64_t begin, int64_t end) {
    cpu::ImageSampler sampler(rule, *seed.const_data_ptr<int64_t>());
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = begin_of[n];
      sampler.sample({label_values + first, iou_values + first, idx_values + first, begin_of[n + 1] - first, n},
                     out + n * num_samples, positives + n, negatives + n);
    }
  });
  return {indices, num_positive, num_negative};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CPU, m) { m.impl("bucketed_sample", TORCH_BOX(&bucketed_sample_cpu)); }

}  // namespace libra_d2
