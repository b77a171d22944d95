#include "../bucketed_sample_op.h"
#include "tensors_on_gpu.h"

namespace libra_d2 {
namespace {

// Whether the sweeps over all rows pay, as some image is larger than select_kernel likes, or may be where the sizes are
// on the device. The result does not depend on it.
bool sweeps_pay(const Tensor& offsets, int64_t images, int64_t rows) {
  if (rows <= kSelectCapacity || !offsets.is_cpu()) return rows > kSelectCapacity;
  const Tensor bounds = packed(offsets);
  const int64_t* p = bounds.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < images; ++n) {
    if (p[n + 1] - p[n] > kSelectCapacity) return true;
  }
  return false;
}

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

  const bool swept = sweeps_pay(t.offsets, t.images, t.rows);
  const SampleRoom room = room_for_sample<kSelectCapacity>(a.rule, t.images, t.rows, swept);
  const Tensor spill_key = empty(t.labels, {room.spill}, aoti_torch_dtype_int64());
  const Tensor spill_row = empty(t.labels, {room.spill}, aoti_torch_dtype_int32());
  const Tensor list = empty(t.labels, {room.list}, aoti_torch_dtype_int32());
  const Tensor tally =
      torch::stable::new_zeros(t.labels, {room.counts * kCountWords + room.strata + room.list_sizes}, ScalarType::Int);
  if (room.spill > 0) {
    a.spill_key = reinterpret_cast<uint64_t*>(spill_key.mutable_data_ptr<int64_t>());
    a.spill_row = reinterpret_cast<uint32_t*>(spill_row.mutable_data_ptr<int>());
  }
  if (swept) {
    auto* words = reinterpret_cast<uint32_t*>(tally.mutable_data_ptr<int>());
    a.counts = reinterpret_cast<Counts*>(words);
    a.strata = words + room.counts * kCountWords;
    a.list_sizes = a.strata + room.strata;
    a.list = reinterpret_cast<uint32_t*>(list.mutable_data_ptr<int>());
  }
  STD_CUDA_CHECK(bucketed_sample_on(gpu.stream(), a));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("bucketed_sample", TORCH_BOX(&bucketed_sample<&draw_on_cuda>)); }

}  // namespace libra_d2
