// bucketed_sample on the CPU: images in parallel.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <initializer_list>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "../checks.h"
#include "image_sampler.h"

namespace libra_d2 {
namespace {

using cpu::BinUpper;
using cpu::ImageSampler;
using cpu::SamplingOptions;

constexpr const char* kOp = "bucketed_sample";

template <class T>
T one_of(const char* name, const std::string& value,
         std::initializer_list<std::pair<std::string, T>> choices) {
  for (const auto& [text, choice] : choices) {
    if (value == text) return choice;
  }
  TORCH_CHECK_VALUE(false, kOp, ": expected ", name, " to be a known name, got '", value, "'");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> bucketed_sample_cpu(
    const at::Tensor& labels, const at::Tensor& ious, const at::Tensor& matched_idx,
    const at::Tensor& offsets, const at::Tensor& seed, int64_t num_samples,
    double positive_fraction, std::string positive, std::string negative, int64_t num_bins,
    std::string bin_upper, double bin_upper_value, double floor_thr, double floor_fraction,
    double neg_pos_ub) {  // strings by value: torch wants one signature for CPU and CUDA
  TORCH_CHECK_VALUE(labels.dim() == 1, kOp, ": expected labels of shape [R], got ", labels.sizes());
  const int64_t rows = labels.size(0);
  check_rows(kOp, "labels", labels, at::kChar, rows, at::kCPU);
  check_rows(kOp, "ious", ious, at::kFloat, rows, at::kCPU);
  check_rows(kOp, "matched_idx", matched_idx, at::kLong, rows, at::kCPU);
  check_offsets(kOp, "offsets", offsets, at::kCPU);
  check_dtype(kOp, "seed", seed, at::kLong);
  check_device(kOp, "seed", seed, at::kCPU);
  TORCH_CHECK_VALUE(seed.dim() == 0, kOp, ": expected seed of shape [], got ", seed.sizes());
  const at::Tensor bounds = offsets.contiguous();
  check_offset_values(kOp, "offsets", bounds, rows);
  TORCH_CHECK_VALUE(rows < (int64_t{1} << 31), kOp, ": expected fewer than 2^31 boxes, got ", rows);
  check_range(kOp, "num_samples", static_cast<double>(num_samples), 1, 1 << 24);
  check_range(kOp, "num_bins", static_cast<double>(num_bins), 1, 1 << 16);
  check_range(kOp, "positive_fraction", positive_fraction, 0, 1);
  check_range(kOp, "floor_fraction", floor_fraction, 0, 1);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  check_range(kOp, "neg_pos_ub", neg_pos_ub, -kInfinity, kInfinity);  // not NaN

  const SamplingOptions options{
      num_samples,
      positive_fraction,
      one_of<bool>("positive", positive, {{"instance_balanced", true}, {"random", false}}),
      one_of<bool>("negative", negative, {{"iou_balanced", true}, {"random", false}}),
      num_bins,
      one_of<BinUpper>("bin_upper", bin_upper,
                       {{"value", BinUpper::kValue},
                        {"max_all", BinUpper::kMaxAll},
                        {"max_neg", BinUpper::kMaxNegative}}),
      static_cast<float>(bin_upper_value),
      static_cast<float>(floor_thr),
      floor_fraction,
      neg_pos_ub,
      *seed.const_data_ptr<int64_t>()};
  const int64_t images = offsets.size(0) - 1;
  const auto counts = labels.options().dtype(at::kLong);
  at::Tensor indices = at::empty({images, num_samples}, counts);
  at::Tensor num_positive = at::empty({images}, counts);
  at::Tensor num_negative = at::empty({images}, counts);

  const at::Tensor packed_labels = labels.contiguous(), packed_ious = ious.contiguous(),
                   packed_idx = matched_idx.contiguous();
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
  at::parallel_for(0, images, grain, [&](int64_t begin, int64_t end) {
    ImageSampler sampler(options);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = begin_of[n];
      sampler.sample({label_values + first, iou_values + first, idx_values + first,
                      begin_of[n + 1] - first, n},
                     out + n * num_samples, positives + n, negatives + n);
    }
  });
  return {indices, num_positive, num_negative};
}

}  // namespace

TORCH_LIBRARY_IMPL(libra_d2, CPU, m) { m.impl("bucketed_sample", &bucketed_sample_cpu); }

}  // namespace libra_d2
