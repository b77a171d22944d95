// The grid-wide kernels before select_kernel, where images are large: they count an image's boxes
// and list those that may be drawn. count_rows and the sieves serve select_kernel as well.
#pragma once

#include "../philox.h"
#include "sample_plan.cuh"

namespace libra_d2 {

constexpr int kSweepThreads = 256;
constexpr int kSweepRows = 4096;
constexpr uint32_t kBlockStrata = 256;

__device__ inline Words4 box_keys(const SampleArgs& a, int64_t image, uint32_t row) {
  return draw_keys(*a.seed, row, image, Domain::kBox);
}

// Adds the rows begin:end to `counts`, in shared or global memory. For whole warps.
__device__ inline void count_rows(const SampleArgs& a, int64_t begin, int64_t end, Counts* counts) {
  Counts mine{};
  for (int64_t row = begin + threadIdx.x; row < end; row += blockDim.x) {
    const int label = a.labels[row];
    const float iou = a.rule.iou_balanced ? clean_iou(a.ious[row]) : 0.f;  // else nobody asks
    mine.positives += label > 0;
    mine.negatives += label == 0;
    mine.floor += label == 0 && a.rule.is_floor(iou);
    mine.max_all = max(mine.max_all, ordered_bits(iou));
    if (label == 0) mine.max_negative = max(mine.max_negative, ordered_bits(iou));
  }
  mine.positives = warp_prefix(mine.positives);
  mine.negatives = warp_prefix(mine.negatives);
  mine.floor = warp_prefix(mine.floor);
  mine.max_all = warp_max(mine.max_all);
  mine.max_negative = warp_max(mine.max_negative);
  if (lane_of_thread() != 31) return;
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

// The sieves of one image's list, where the keys have one stratum: by first, refill and top-up key of the negatives,
// and by first key of the positives.
enum : int { kNegatives, kRefill, kTopUp, kPositives, kSieves };

// For whole blocks.
__device__ inline void set_sieves(const SampleArgs& a, const Plan& plan, const Counts& counts, const uint32_t* strata,
                                  uint32_t* partial, Sieve* sieves) {
  uint32_t picked = 0;  // of BAL, by first keys
  for (uint32_t k = threadIdx.x; plan.per_bin > 0 && k < a.rule.binned_strata(); k += blockDim.x) {
    picked += min(strata[k], plan.per_bin);
  }
  picked = block_sum(picked, partial);
  if (threadIdx.x == 0) {
    if (plan.all_balanced) picked = plan.balanced;
    const uint32_t bal = counts.negatives - counts.floor;
    sieves[kNegatives] = sieve_for(plan.negatives, counts.negatives, a.list_slack);
    sieves[kRefill] = sieve_for(plan.balanced - picked, bal - picked, a.list_slack);
    sieves[kTopUp] = sieve_for(plan.top_up, bal - plan.balanced, a.list_slack);
    sieves[kPositives] = sieve_for(plan.positives, counts.positives, a.list_slack);
    if (a.rule.instance_balanced && plan.positives > 0) sieves[kPositives] = open_sieve();  // keys alone cannot tell
  }
  __syncthreads();
}

__device__ inline Sieve stratum_sieve(const SampleArgs& a, const Plan& plan, const uint32_t* strata, uint32_t stratum) {
  return sieve_for(quota_of(a.rule, plan, stratum), strata[stratum], a.list_slack);
}

// Where the boxes of one sign are listed, by their rows in the image.
__device__ inline uint32_t* list_of(const SampleArgs& a, int64_t image_begin, const Counts& counts, bool positive) {
  return a.list + image_begin + (positive ? 0 : counts.positives);
}

struct ListShared {
  Plan plan;
  Sieve sieves[kSieves];
  uint32_t partial[32];
};

// Sweep 3: lists the boxes that may be drawn. Their order in the list is left to chance.
__global__ void __launch_bounds__(kSweepThreads) list_kernel(const SampleArgs a) {
  LIBRA_SHARED(ListShared, s);
  const RowTile tile = row_tile<kSweepRows>(a.batch, blockIdx.x);
  const uint32_t* strata = a.strata + tile.image * a.rule.num_strata();
  Counts& counts = a.counts[tile.image];
  if (threadIdx.x == 0) s.plan = plan_of(a.rule, counts);
  __syncthreads();
  set_sieves(a, s.plan, counts, strata, s.partial, s.sieves);
  for (int64_t row = tile.begin + threadIdx.x; row < tile.end; row += blockDim.x) {
    const int label = a.labels[row];
    if (label < 0) continue;
    const uint32_t local = static_cast<uint32_t>(row - tile.image_begin);
    const Words4 keys = box_keys(a, tile.image, local);
    bool listed;
    if (label > 0) {
      listed = s.sieves[kPositives].passes(keys.x);
    } else if (!s.plan.by_iou) {
      listed = s.sieves[kNegatives].passes(keys.x);
    } else {
      const uint32_t stratum = stratum_of(a.rule, s.plan, clean_iou(a.ious[row]));
      listed =
          stratum_sieve(a, s.plan, strata, stratum).passes(keys.x) ||
          (stratum != a.rule.floor_stratum() && (s.sieves[kRefill].passes(keys.y) || s.sieves[kTopUp].passes(keys.z)));
    }
    if (!listed) continue;
    list_of(a, tile.image_begin, counts, label > 0)[atomicAdd(&counts.listed[label > 0], 1u)] = local;
  }
}

}  // namespace libra_d2
