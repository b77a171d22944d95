#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "kernels.h"
#include "tensors.h"

namespace libra_d2 {
namespace {

using at::Tensor;

// Whether the sweeps over all rows pay: whether images are larger than select_kernel likes. The
// result does not depend on it, so that the mean does where the sizes are on the device.
bool sweeps_pay(const Tensor& offsets, int64_t images, int64_t rows) {
  if (!offsets.is_cpu()) return rows / images > kSelectCapacity;
  const Tensor bounds = offsets.contiguous();
  const int64_t* p = bounds.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < images; ++n) {
    if (p[n + 1] - p[n] > kSelectCapacity) return true;
  }
  return false;
}

std::tuple<Tensor, Tensor, Tensor> bucketed_sample_cuda(
    const Tensor& labels, const Tensor& ious, const Tensor& matched_idx, const Tensor& offsets, const Tensor& seed,
    int64_t num_samples, double positive_fraction, std::string positive, std::string negative, int64_t num_bins,
    std::string bin_upper, double bin_upper_value, double floor_thr, double floor_fraction, double neg_pos_ub) {
  check_bucketed_sample(labels, ious, matched_idx, offsets, seed);
  SampleArgs a{};
  a.rule = SampleRule::of(num_samples, positive_fraction, positive, negative, num_bins, bin_upper, bin_upper_value,
                          floor_thr, floor_fraction, neg_pos_ub);
  const int64_t images = offsets.size(0) - 1, rows = labels.numel();
  const c10::cuda::CUDAGuard guard(labels.device());
  const auto options = labels.options().dtype(at::kLong);
  Tensor indices = at::empty({images, num_samples}, options);
  Tensor num_positive = at::empty({images}, options), num_negative = at::empty({images}, options);
  if (images == 0) return {indices, num_positive, num_negative};

  const Tensor packed_labels = labels.contiguous(), packed_ious = ious.contiguous();
  const Tensor packed_matches = matched_idx.contiguous();
  const Tensor bounds = offsets_on(labels.device(), offsets);
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
  const auto ints = options.dtype(at::kInt);
  const Tensor spill_key = at::empty({room.spill}, options);
  const Tensor spill_row = at::empty({room.spill}, ints);
  const Tensor list = at::empty({room.list}, ints);
  const Tensor tally = at::zeros({room.counts * kCountWords + room.strata + room.list_sizes}, ints);
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
  C10_CUDA_CHECK(bucketed_sample_on(c10::cuda::getCurrentCUDAStream(), a));
  return {indices, num_positive, num_negative};
}

}  // namespace

TORCH_LIBRARY_IMPL(libra_d2, CUDA, m) { m.impl("bucketed_sample", bucketed_sample_cuda); }

}  // namespace libra_d2
