#include "../bucketed_sample_op.h"
#include "tensors_on_gpu.h"

namespace libra_d2 {
namespace {

void draw_on_cuda(const SampleRule& rule, SampleTensors& t) {
  const OnGpu gpu("bucketed_sample", t.labels);
  SampleArgs a{};
  a.rule = rule;

  const Tensor packed_labels = packed(t.labels), packed_ious = packed(t.ious);
  const Tensor packed_matches = packed(t.matched_idx);
  const Tensor bounds = gpu.offsets("offsets", t.offsets, t.labels);
  a.labels = packed_labels.const_data_ptr<int8_t>();
  a.ious = packed_ious.const_data_ptr<float>();
  a.matched_idx = packed_matches.const_data_ptr<int64_t>();
  a.batch = Batch{bounds.const_data_ptr<int64_t>(), t.images, t.rows};
  a.seed = t.seed.const_data_ptr<int64_t>();
  a.indices = t.indices.mutable_data_ptr<int64_t>();
  a.num_positive = t.num_positive.mutable_data_ptr<int64_t>();
  a.num_negative = t.num_negative.mutable_data_ptr<int64_t>();
  a.list_slack = kListSlack;

  const bool swept = t.rows > kMostUnswept * t.images;
  const Tensor list = empty(t.labels, {a.list_words()}, aoti_torch_dtype_int32());
  const Tensor tally = torch::stable::new_zeros(t.labels, {swept ? a.sweep_words() : 0}, ScalarType::Int);
  a.list = reinterpret_cast<uint32_t*>(list.mutable_data_ptr<int>());
  if (swept) {
    a.counts = reinterpret_cast<Counts*>(tally.mutable_data_ptr<int>());
    a.strata = reinterpret_cast<uint32_t*>(a.counts + t.images);
  }
  STD_CUDA_CHECK(bucketed_sample_on(gpu.stream(), a));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("bucketed_sample", TORCH_BOX(&bucketed_sample<&draw_on_cuda>)); }

}  // namespace libra_d2
