// The grid-wide kernels before select_kernel, where images are large: they count an image's boxes
// and list those that may be drawn. count_rows and the sieves serve select_kernel as well.
#pragma once

#include "../philox.h"
#include "sample_plan.cuh"

namespace libra_d2 {

constexpr int kSweepThreads = 256;
constexpr int kSweepRows = 1024;
constexpr uint32_t kBlockStrata = 256;

__device__ inline Words4 box_keys(const SampleArgs& a, int64_t image, uint32_t row) {
  return draw_keys(*a.seed, row, image, Domain::kBox);
}

// Adds the rows begin:end to `counts`, in shared or global memory. For whole warps.
__device__ inline void count_rows(const SampleArgs& a, int64_t begin, int64_t end, Counts* counts) {
  Counts mine{};
  for (int64_t row = begin + threadIdx.x; row < end; row += blockDim.x) {
    const int label = a.labels[row];
    const float iou = clean_iou(a.ious[row]);
    mine.positives += label > 0;
    mine.negatives += label == 0;
    mine.floor += label == 0 && a.rule.is_floor(iou);
    mine.max_all = max(mine.max_all, ordered_bits(iou));
    if (label == 0) mine.max_negative = max(mine.max_negative, ordered_bits(iou));
  }
  mine.positives = warp_sum(mine.positives);
  mine.negatives = warp_sum(mine.negatives);
  mine.floor = warp_sum(mine.floor);
  mine.max_all = warp_max(mine.max_all);
  mine.max_negative = warp_max(mine.max_negative);
  if (lane_of_thread() != 0) return;
  if (mine.positives) atomicAdd(&counts->positives, mine.positives);
  if (mine.negatives) atomicAdd(&counts->negatives, mine.negatives);
  if (mine.floor) atomicAdd(&counts->floor, mine.floor);
  if (mine.max_all) atomicMax(&counts->max_all, mine.max_all);
  if (mine.max_negative) atomicMax(&counts->max_negative, mine.max_negative);
}

// Sweep 1.
__global__ void __launch_bounds__(kSweepThreads) count_kernel(const SampleArgs a) {
  const RowTile tile = row_tile<kSweepRows>(a.batch, blockIdx.x);
  count_rows(a, tile.begin, tile.end, a.counts + tile.image);
}

struct StrataShared {
  Plan plan;
  uint32_t count[kBlockStrata];
};

// Sweep 2, where the negatives are chosen by IoU: the negatives of each stratum.
__global__ void __launch_bounds__(kSweepThreads) strata_kernel(const SampleArgs a) {
  LIBRA_SHARED(StrataShared, s);
  const RowTile tile = row_tile<kSweepRows>(a.batch, blockIdx.x);
  if (threadIdx.x == 0) s.plan = plan_of(a.rule, a.counts[tile.image]);
  for (uint32_t i = threadIdx.x; i < kBlockStrata; i += blockDim.x) s.count[i] = 0;
  __syncthreads();
  uint32_t* strata = a.strata + tile.image * a.rule.num_strata();
  for (int64_t row = tile.begin + threadIdx.x; row < tile.end; row += blockDim.x) {
    if (a.labels[row] != 0) continue;
    const uint32_t stratum = stratum_of(a.rule, s.plan, clean_iou(a.ious[row]));
    if (stratum < kBlockStrata) {  // one pointer for both would make the atomic a generic one
      atomicAdd(&s.count[stratum], 1u);
    } else {
      atomicAdd(&strata[stratum], 1u);
    }
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < min(kBlockStrata, a.rule.num_strata()); i += blockDim.x) {
    if (s.count[i]) atomicAdd(&strata[i], s.count[i]);
  }
}

// How many of BAL the first keys choose, in an image with these strata.
__device__ inline uint32_t picked_by_bins(const SampleArgs& a, const Plan& plan, const uint32_t* strata) {
  if (plan.all_balanced) return plan.balanced;
  uint32_t picked = 0;
  for (uint32_t k = 0; plan.per_bin > 0 && k < a.rule.binned_strata(); ++k) {
    picked += min(strata[k], plan.per_bin);
  }
  return picked;
}

// The thresholds of one image's lists. A sign that fits into `capacity` is listed whole.
struct Sieves {
  Sieve positives, negatives;  // by first keys, where they have one stratum
  Sieve refill, top_up;
  bool by_stratum;
  uint32_t picked;
};

__device__ inline Sieves sieves_of(const SampleArgs& a, const Plan& plan, const Counts& counts, const uint32_t* strata,
                                   uint32_t capacity) {
  const int slack = a.list_slack;
  Sieves s{open_sieve(), open_sieve(), open_sieve(), open_sieve(), false, 0};
  if (counts.positives > capacity) {
    s.positives = a.rule.instance_balanced ? Sieve{0, 0}  // needs them all: no use listing any
                                           : sieve_for(plan.positives, counts.positives, slack);
  }
  if (counts.negatives <= capacity) return s;
  s.negatives = sieve_for(plan.negatives, counts.negatives, slack);
  s.by_stratum = a.rule.iou_balanced && plan.negatives < counts.negatives;
  if (!s.by_stratum) return s;
  s.picked = picked_by_bins(a, plan, strata);
  const uint32_t bal = counts.negatives - counts.floor;
  s.refill = sieve_for(plan.balanced - s.picked, bal - s.picked, slack);
  s.top_up = sieve_for(plan.top_up, bal - plan.balanced, slack);
  return s;
}

__device__ inline Sieve stratum_sieve(const SampleArgs& a, const Plan& plan, const uint32_t* strata, uint32_t stratum) {
  return sieve_for(quota_of(a.rule, plan, stratum), strata[stratum], a.list_slack);
}

struct ListShared {
  Plan plan;
  Sieves sieves;
};

// Sweep 3: lists the boxes that may be drawn. Their order in the list is left to chance.
__global__ void __launch_bounds__(kSweepThreads) list_kernel(const SampleArgs a, uint32_t capacity) {
  LIBRA_SHARED(ListShared, s);
  const RowTile tile = row_tile<kSweepRows>(a.batch, blockIdx.x);
  const uint32_t* strata = a.strata + tile.image * a.rule.num_strata();
  if (threadIdx.x == 0) {
    s.plan = plan_of(a.rule, a.counts[tile.image]);
    s.sieves = sieves_of(a, s.plan, a.counts[tile.image], strata, capacity);
  }
  __syncthreads();
  for (int64_t row = tile.begin + threadIdx.x; row < tile.end; row += blockDim.x) {
    const int label = a.labels[row];
    if (label < 0) continue;
    const uint32_t local = static_cast<uint32_t>(row - tile.image_begin);
    const Words4 keys = box_keys(a, tile.image, local);
    bool listed;
    if (label > 0) {
      listed = s.sieves.positives.passes(keys.x);
    } else if (!s.sieves.by_stratum) {
      listed = s.sieves.negatives.passes(keys.x);
    } else {
      const uint32_t stratum = stratum_of(a.rule, s.plan, clean_iou(a.ious[row]));
      listed =
          stratum_sieve(a, s.plan, strata, stratum).passes(keys.x) ||
          (stratum != a.rule.floor_stratum() && (s.sieves.refill.passes(keys.y) || s.sieves.top_up.passes(keys.z)));
    }
    if (!listed) continue;
    const int64_t list = tile.image * 2 + (label > 0);
    const uint32_t at = atomicAdd(&a.list_sizes[list], 1u);
    if (at < capacity) a.list[list * capacity + at] = local;
  }
}

}  // namespace libra_d2
