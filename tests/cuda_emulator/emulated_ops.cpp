// The CUDA kernels, run by the emulator, behind plain C functions: what csrc/cuda/*_cuda.cpp is to
// torch.
#include "emulated_ops.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/batched_iou.cuh"
#include "cuda/bucketed_sample.cuh"
#include "cuda/match_boxes.cuh"
#include "cuda/offsets.cuh"

using namespace libra_d2;

namespace {

// Offsets of the CPU as the kernels get to see them; null for null.
class StoredOffsets {
 public:
  StoredOffsets(const int64_t* values, int64_t images) : there_(values ? images + 1 : 0, -9) {
    launch_store_offsets(values, static_cast<int64_t>(there_.size()), there_.data(), emulator::launch);
  }

  const int64_t* get() const { return there_.empty() ? nullptr : there_.data(); }

 private:
  std::vector<int64_t> there_;
};

const Box* boxes_of(const float* p) { return reinterpret_cast<const Box*>(p); }

constexpr uint32_t kUntouched = 0xCDCDCDCDu;

// Whether a block did not trust what the sweeps had listed, and listed all boxes of a sign after all.
bool sample(SampleArgs a, int threads, bool swept) {
  std::vector<uint32_t> list(a.list_words(), kUntouched), tally(swept ? a.sweep_words() : 0);
  a.list = list.data();
  if (swept) {
    a.counts = reinterpret_cast<Counts*>(tally.data());
    a.strata = reinterpret_cast<uint32_t*>(a.counts + a.batch.images);
  }
  launch_sample(a, threads, emulator::launch);
  int64_t written =
      std::count_if(list.begin(), list.begin() + a.batch.rows, [](uint32_t w) { return w != kUntouched; });
  for (int64_t n = 0; swept && n < a.batch.images; ++n) written -= a.counts[n].listed[0] + a.counts[n].listed[1];
  return swept && written > 0;
}

std::string refusal;

// Runs `f`; -1 where an argument is refused, emulated_refusal tells why.
template <class F>
int unless_refused(const F& f) {
  try {
    return f();
  } catch (const std::invalid_argument& error) {
    refusal = error.what();
    return -1;
  }
}

}  // namespace

const char* emulated_refusal() { return refusal.c_str(); }

void emulated_options(int order, uint64_t seed, int yield_at_atomics) {
  emulator::Device::instance().options = {static_cast<emulator::Order>(order), seed, yield_at_atomics != 0};
  emulator::Device::instance().launches = 0;
}

int emulated_launches() { return emulator::Device::instance().launches; }

int emulated_match(const float* boxes, const float* gt_boxes, const int64_t* box_offsets, const int64_t* gt_offsets,
                   int64_t images, int64_t rows, int64_t num_gt, const double* thresholds, int64_t num_thresholds,
                   const int64_t* labels, int64_t num_labels, int allow_low_quality, int64_t* matched_idx,
                   float* matched_iou, int8_t* matched_label) {
  return unless_refused([&] {
    const auto rule = LabelRule::of(std::vector<double>(thresholds, thresholds + num_thresholds),
                                    std::vector<int64_t>(labels, labels + num_labels));
    std::vector<unsigned> column_max(num_gt);
    const StoredOffsets gts(gt_offsets, images), own(box_offsets, images);
    launch_match(MatchArgs{{boxes_of(boxes), boxes_of(gt_boxes), gts.get(), num_gt, Batch{own.get(), images, rows}},
                           rule,
                           matched_idx,
                           matched_iou,
                           matched_label,
                           column_max.data()},
                 allow_low_quality != 0, emulator::launch);
    return 0;
  });
}

void emulated_iou(const float* boxes, const float* gt_boxes, const int64_t* box_offsets, const int64_t* gt_offsets,
                  int64_t images, int64_t rows, int64_t num_gt, float* ious, int64_t total) {
  const StoredOffsets gts(gt_offsets, images), own(box_offsets, images);
  launch_batched_iou(
      IouArgs{{boxes_of(boxes), boxes_of(gt_boxes), gts.get(), num_gt, Batch{own.get(), images, rows}}, ious, total},
      emulator::launch);
}

int emulated_sample(const int8_t* labels, const float* ious, const int64_t* matched_idx, const int64_t* offsets,
                    int64_t images, int64_t rows, int64_t seed, int64_t num_samples, double positive_fraction,
                    const char* positive, const char* negative, int64_t num_bins, const char* bin_upper,
                    double bin_upper_value, double floor_thr, double floor_fraction, double neg_pos_ub, int swept,
                    int list_slack, int threads, int64_t* indices, int64_t* num_positive, int64_t* num_negative) {
  return unless_refused([&] {
    SampleArgs a{};
    a.rule = SampleRule::of(num_samples, positive_fraction, positive, negative, num_bins, bin_upper, bin_upper_value,
                            floor_thr, floor_fraction, neg_pos_ub);
    a.labels = labels;
    a.ious = ious;
    a.matched_idx = matched_idx;
    const StoredOffsets own(offsets, images);
    a.batch = Batch{own.get(), images, rows};
    a.seed = &seed;
    a.indices = indices;
    a.num_positive = num_positive;
    a.num_negative = num_negative;
    a.list_slack = list_slack;
    return static_cast<int>(sample(a, threads, swept != 0));
  });
}
