// bucketed_sample on the CPU: images in parallel.
#include "../bucketed_sample_op.h"
#include "image_sampler.h"

namespace libra_d2 {
namespace {

void draw_on_cpu(const SampleRule& rule, SampleTensors& t) {
  const Tensor packed_labels = packed(t.labels), packed_ious = packed(t.ious), packed_idx = packed(t.matched_idx),
               bounds = packed(t.offsets);
  const int8_t* label_values = packed_labels.const_data_ptr<int8_t>();
  const float* iou_values = packed_ious.const_data_ptr<float>();
  const int64_t* idx_values = packed_idx.const_data_ptr<int64_t>();
  const int64_t* begin_of = bounds.const_data_ptr<int64_t>();
  int64_t* out = t.indices.mutable_data_ptr<int64_t>();
  int64_t* positives = t.num_positive.mutable_data_ptr<int64_t>();
  int64_t* negatives = t.num_negative.mutable_data_ptr<int64_t>();
  // Waking a thread for less, a fraction of a millisecond, loses more on a busy machine than it wins.
  constexpr int64_t kRowsPerTask = 1 << 15;
  const int64_t grain = 1 + kRowsPerTask * t.images / (t.rows + 1);
  torch::stable::parallel_for(0, t.images, grain, [&](int64_t begin, int64_t end) {
    cpu::ImageSampler sampler(rule, *t.seed.const_data_ptr<int64_t>());
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = begin_of[n];
      sampler.sample({label_values + first, iou_values + first, idx_values + first, begin_of[n + 1] - first, n},
                     out + n * t.num_samples, positives + n, negatives + n);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CPU, m) { m.impl("bucketed_sample", TORCH_BOX(&bucketed_sample<&draw_on_cpu>)); }

}  // namespace libra_d2
