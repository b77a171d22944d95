// The CUDA kernels, run by the emulator, behind plain C functions: what csrc/cuda/*_cuda.cpp is to
// torch.
#include "emulated_ops.h"

#include "cuda/batched_iou.cuh"
#include "cuda/bucketed_sample.cuh"
#include "cuda/match_boxes.cuh"

using namespace libra_d2;

namespace {

// An empty vector's data() may be null, which tells a kernel that the array is not there.
template <class T>
T* data_or_null(std::vector<T>& v) {
  return v.empty() ? nullptr : v.data();
}

const Box* boxes_of(const float* p) { return reinterpret_cast<const Box*>(p); }

constexpr uint32_t kUntouched = 0xCDCDCDCDu;

// Whether the kernel had to take boxes to global memory.
template <int kCapacity>
bool sample(SampleArgs a, int threads, bool swept) {
  const SampleRoom room = room_for_sample<kCapacity>(a.rule, a.batch.images, a.batch.rows, swept);
  std::vector<uint64_t> spill_key(room.spill);
  std::vector<uint32_t> spill_row(room.spill, kUntouched), list(room.list, kUntouched);
  std::vector<uint32_t> strata(room.strata), list_sizes(room.list_sizes);
  std::vector<Counts> counts(room.counts);
  a.spill_key = data_or_null(spill_key);
  a.spill_row = data_or_null(spill_row);
  a.counts = data_or_null(counts);
  a.strata = data_or_null(strata);
  a.list_sizes = data_or_null(list_sizes);
  a.list = data_or_null(list);
  launch_sample<kCapacity>(a, threads, emulator::launch);
  return std::any_of(spill_row.begin(), spill_row.end(),
                     [](uint32_t r) { return r != kUntouched; });
}

}  // namespace

void emulated_options(int order, uint64_t seed, int yield_at_atomics) {
  emulator::Device::instance().options = {static_cast<emulator::Order>(order), seed,
                                          yield_at_atomics != 0};
}

void emulated_match(const float* boxes, const float* gt_boxes, const int64_t* box_offsets,
                    const int64_t* gt_offsets, int64_t images, int64_t rows, int64_t num_gt,
                    const float* thresholds, const int8_t* labels, int num_thresholds,
                    int allow_low_quality, int64_t* matched_idx, float* matched_iou,
                    int8_t* matched_label) {
  std::vector<unsigned> column_max(num_gt);
  MatchArgs a{boxes_of(boxes),
              boxes_of(gt_boxes),
              gt_offsets,
              num_gt,
              {box_offsets, images, rows},
              {},
              matched_idx,
              matched_iou,
              matched_label,
              column_max.data()};
  a.rule.num_thresholds = num_thresholds;
  std::copy_n(thresholds, num_thresholds, a.rule.thresholds);
  std::copy_n(labels, num_thresholds + 1, a.rule.labels);
  launch_match(a, allow_low_quality != 0, emulator::launch);
}

void emulated_iou(const float* boxes, const float* gt_boxes, const int64_t* box_offsets,
                  const int64_t* gt_offsets, int64_t images, int64_t rows, int64_t num_gt,
                  float* ious, int64_t total) {
  launch_batched_iou(IouArgs{boxes_of(boxes), boxes_of(gt_boxes), gt_offsets, num_gt,
                             Batch{box_offsets, images, rows}, ious, total},
                     emulator::launch);
}

int64_t emulated_product(uint32_t n, double factor) {
  return truncated_product(n, ExactFactor::of(factor));
}

int emulated_sample(const int8_t* labels, const float* ious, const int64_t* matched_idx,
                    const int64_t* offsets, int64_t images, int64_t rows, int64_t seed,
                    int64_t num_samples, double positive_fraction, int instance_balanced,
                    int iou_balanced, int64_t num_bins, int upper_kind, double bin_upper,
                    double floor_thr, double floor_fraction, double neg_pos_ub, int small,
                    int swept, int list_slack, int threads, int64_t* indices, int64_t* num_positive,
                    int64_t* num_negative) {
  SampleArgs a{};
  a.labels = labels;
  a.ious = ious;
  a.matched_idx = matched_idx;
  a.batch = Batch{offsets, images, rows};
  a.seed = &seed;
  a.rule = SampleRule::of(num_samples, positive_fraction, instance_balanced != 0, iou_balanced != 0,
                          num_bins, static_cast<BinUpper>(upper_kind), bin_upper, floor_thr,
                          floor_fraction, neg_pos_ub);
  a.indices = indices;
  a.num_positive = num_positive;
  a.num_negative = num_negative;
  a.list_slack = list_slack;
  return small ? sample<kSmallCapacity>(a, threads, swept != 0)
               : sample<kSelectCapacity>(a, threads, swept != 0);
}
