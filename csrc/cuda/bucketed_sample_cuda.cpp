#include <string>
#include <tuple>
#include <vector>

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

std::tuple<Tensor, Tensor, Tensor> bucketed_sample_cuda(const Tensor& labels, const Tensor& ious,
                                                        const Tensor& matched_idx, const Tensor& offsets,
                                                        const Tensor& seed, int64_t num_samples,
                                                        double positive_fraction, const std::string& positive,
                                                        const std::string& negative, int64_t num_bins,
                                                        const std::string& bin_upper, double bin_upper_value,
                                                        double floor_thr, double floor_fraction, double neg_pos_ub) {
  check_bucketed_sample(labels, ious, matched_idx, offsets, seed);
  SampleArgs a{};
  a.rule = SampleRule::of(num_samples, positive_fraction, positive, negative, num_bins, bin_upper, bin_upper_value,
                          floor_thr, floor_fraction, neg_pos_ub);
  const int64_t images = offsets.size(0) - 1, rows = labels.numel();
  const OnGpu gpu("bucketed_sample", labels);
  const int32_t int64 = aoti_torch_dtype_int64(), int32 = aoti_torch_dtype_int32();
  Tensor indices = empty(labels, {images, num_samples}, int64);
  Tensor num_positive = empty(labels, {images}, int64), num_negative = empty(labels, {images}, int64);
  if (images == 0) return {indices, num_positive, num_negative};

  const Tensor packed_labels = packed(labels), packed_ious = packed(ious);
  const Tensor packed_matches = packed(matched_idx);
  const Tensor bounds = gpu.offsets("offsets", offsets, labels);
  a.labels = packed_labels.const_data_ptr<int8_t>();
  a.ious = packed_ious.const_data_ptr<float>();
  a.matched_idx = packed_matches.const_data_ptr<int64_t>();
  a.batch = Batch{bounds.const_data_ptr<int64_t>(), images, rows};
  a.seed = seed.const_data_ptr<int64_t>();
  a.indices = indices.mutable_data_ptr<int64_t>();
  a.num_positive = num_positive.mutable_data_ptr<int64_t>();
  a.num_negative = num_negative.mutable_data_ptr<int64_t>();
  a.list_slack = kListSlack;

  const bool swept = sweeps_pay(offsets, images, rows);
  const SampleRoom room = room_for_sample<kSelectCapacity>(a.rule, images, rows, swept);
  const Tensor spill_key = empty(labels, {room.spill}, int64), spill_row = empty(labels, {room.spill}, int32);
  const Tensor list = empty(labels, {room.list}, int32);
  const Tensor tally =
      torch::stable::new_zeros(labels, {room.counts * kCountWords + room.strata + room.list_sizes}, ScalarType::Int);
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
  return {indices, num_positive, num_negative};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("bucketed_sample", TORCH_BOX(&bucketed_sample_cuda)); }

}  // namespace libra_d2
