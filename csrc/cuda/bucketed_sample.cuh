// bucketed_sample, draw by draw as docs/sampling.md has it.
//
// select_kernel does it all, one block an image, by sorting the image's positives and then its
// negatives a few times. That is quick up to some thousand boxes. For larger images three grid-wide
// kernels come before it: they count, and list the boxes whose keys are small enough to be drawn.
// The list is checked; where it turns out too short or too long the block takes all boxes after
// all, in global memory: slow, yet never wrong.
#pragma once

#include "block_sort.cuh"
#include "sample_sweeps.cuh"

namespace libra_d2 {

constexpr int kSelectThreads = 1024;

template <int kCapacity>
struct SelectShared {
  uint64_t key[kCapacity];
  uint32_t row[kCapacity];
  uint32_t partial[32];
  uint32_t size;
  Counts counts;
  Plan plan;
  Sieves sieves;
};

// What the choosing functions below need to know of the image. They return whether the choice is
// right for the whole image, given that the elements may be those of a list only.
struct ImageView {
  const SampleArgs& a;
  const Plan& plan;
  int64_t image;
  Range rows;
  const uint32_t* strata;  // null: the elements are all boxes of their sign
  const Sieves* sieves;
  uint32_t* partial;

  // The row of the packed inputs. Bad offsets make blocks share their spill room, hence the min.
  __device__ int64_t row_of(uint32_t flagged) const { return min(rows.begin + (flagged & kRowMask), rows.end - 1); }
  __device__ Words4 keys_of(uint32_t flagged) const { return box_keys(a, image, flagged & kRowMask); }
};

// Marks the first `n` elements, whose keys must be below 2^32 and pass the sieve.
__device__ inline bool choose_first(const ImageView& v, const Elements& e, uint32_t n, const Sieve& sieve) {
  uint32_t unsure = n > e.size;
  for (uint32_t i = threadIdx.x; i < min(n, e.size); i += blockDim.x) {
    e.row[i] |= kChosen;
    unsure |= e.key[i] >> 32 != 0 || !sieve.passes(static_cast<uint32_t>(e.key[i]));
  }
  return block_sum(unsure, v.partial) == 0;
}

__device__ inline bool choose_at_random(const ImageView& v, const Elements& e, uint32_t n, const Sieve& sieve) {
  resort(e, [&](uint64_t, uint32_t row) { return uint64_t{v.keys_of(row).x}; });
  return choose_first(v, e, n, sieve);
}

// Water-filling over the matched ground truths; the elements are all positives.
__device__ inline void choose_by_instance(const ImageView& v, const Elements& e, uint32_t n) {
  resort(e, [&](uint64_t, uint32_t row) {
    const uint32_t gt = static_cast<uint32_t>(v.a.matched_idx[v.row_of(row)]);
    return uint64_t{gt} << 32 | v.keys_of(row).x;
  });
  // `level` of each ground truth make `taken` boxes: the most that is not more than n.
  uint32_t level = 0, taken = 0, too_high = n + 1;
  while (too_high - level > 1) {
    const uint32_t middle = level + (too_high - level) / 2;
    uint32_t mine = 0;
    for (uint32_t i = threadIdx.x; i < e.size; i += blockDim.x) {
      mine += in_first_of_group(e, i, middle);
    }
    const uint32_t sum = block_sum(mine, v.partial);
    if (sum <= n) {
      level = middle;
      taken = sum;
    } else {
      too_high = middle;
    }
  }
  for (uint32_t i = threadIdx.x; i < e.size; i += blockDim.x) {
    if (in_first_of_group(e, i, level)) {
      e.row[i] |= kChosen;
    } else if (in_first_of_group(e, i, level + 1)) {
      e.row[i] |= kBonus;  // the box that this ground truth would give next
    }
  }
  resort(e, [&](uint64_t key, uint32_t row) {
    if (!(row & kBonus)) return uint64_t{1} << 63;
    const uint32_t gt = static_cast<uint32_t>(key >> 32);
    const uint64_t gt_key = draw_keys(*v.a.seed, gt, v.image, Domain::kGroundTruth).x;
    return gt_key << 31 | (gt & 0x7fffffffu);
  });
  for (uint32_t i = threadIdx.x; i < min(n - taken, e.size); i += blockDim.x) e.row[i] |= kChosen;
}

// Steps 4 to 7 of docs/sampling.md's iou_balanced.
__device__ inline bool choose_by_iou(const ImageView& v, const Elements& e) {
  const SampleRule& rule = v.a.rule;
  const Plan& plan = v.plan;
  resort(e, [&](uint64_t, uint32_t row) {
    const float iou = clean_iou(v.a.ious[v.row_of(row)]);
    return uint64_t{stratum_of(rule, plan, iou)} << 32 | v.keys_of(row).x;
  });
  uint32_t picked = 0, floor = 0, unsure = 0;
  for (uint32_t i = threadIdx.x; i < e.size; i += blockDim.x) {
    const uint32_t stratum = static_cast<uint32_t>(e.key[i] >> 32);
    if (!in_first_of_group(e, i, quota_of(rule, plan, stratum))) continue;
    e.row[i] |= kChosen;
    (stratum == rule.floor_stratum() ? floor : picked) += 1;
    unsure |= v.strata && !stratum_sieve(v.a, plan, v.strata, stratum).passes(static_cast<uint32_t>(e.key[i]));
  }
  picked = block_sum(picked, v.partial);
  floor = block_sum(floor, v.partial);
  unsure = block_sum(unsure, v.partial);
  if (v.strata && (unsure || picked != v.sieves->picked || floor != plan.floor)) return false;

  // Group 0 is what is left of BAL, 1 what is chosen, 2 what is left of FLOOR.
  constexpr uint64_t kTaken = uint64_t{1} << 32, kFloorLeft = uint64_t{2} << 32;
  if (plan.balanced > picked) {
    resort(e, [&](uint64_t key, uint32_t row) {
      if (row & kChosen) return kTaken;
      return key >> 32 == rule.floor_stratum() ? kFloorLeft : uint64_t{v.keys_of(row).y};
    });
    const Sieve sieve = v.strata ? v.sieves->refill : open_sieve();
    if (!choose_first(v, e, plan.balanced - picked, sieve)) return false;
  }
  if (plan.top_up > 0) {  // then FLOOR is taken whole
    resort(e, [&](uint64_t, uint32_t row) { return row & kChosen ? kTaken : uint64_t{v.keys_of(row).z}; });
    const Sieve sieve = v.strata ? v.sieves->top_up : open_sieve();
    if (!choose_first(v, e, plan.top_up, sieve)) return false;
  }
  return true;
}

// Elements of all rows whose label has this sign.
__device__ inline void gather_rows(const SampleArgs& a, const Range& rows, bool positive, uint32_t capacity,
                                   uint32_t* counter, Elements& e) {
  __syncthreads();
  if (threadIdx.x == 0) *counter = 0;
  __syncthreads();
  for (int64_t start = rows.begin; start < rows.end; start += blockDim.x) {
    const int64_t row = start + threadIdx.x;
    const int label = row < rows.end ? a.labels[row] : -1;
    const bool wanted = positive ? label > 0 : label == 0;
    const unsigned votes = __ballot_sync(kFullWarp, wanted);
    uint32_t at = 0;
    if (lane_of_thread() == 0 && votes) at = atomicAdd(counter, __popc(votes));
    at = __shfl_sync(kFullWarp, at, 0) + __popc(votes & ((1u << lane_of_thread()) - 1u));
    if (wanted && at < capacity) e.row[at] = static_cast<uint32_t>(row - rows.begin);
  }
  __syncthreads();
  e.size = min(*counter, capacity);
}

// Where the elements come from: all boxes of one sign, in global memory where shared memory has no room.
template <int kCapacity>
__device__ Elements all_elements(const SampleArgs& a, SelectShared<kCapacity>& s, const Range& rows, bool positive) {
  const bool fits = (positive ? s.counts.positives : s.counts.negatives) <= kCapacity;
  Elements e = fits ? Elements{s.key, s.row, 0} : Elements{a.spill_key + rows.begin, a.spill_row + rows.begin, 0};
  gather_rows(a, rows, positive, fits ? kCapacity : static_cast<uint32_t>(rows.end - rows.begin), &s.size, e);
  return e;
}

// Or those that the sweeps listed; none where the list was cut off or cannot hold `wanted`.
template <int kCapacity>
__device__ Elements listed_elements(const SampleArgs& a, SelectShared<kCapacity>& s, int64_t image, bool positive,
                                    uint32_t wanted) {
  const uint32_t population = positive ? s.counts.positives : s.counts.negatives;
  const int64_t list = image * 2 + positive;
  const uint32_t size = a.list_sizes[list];
  const bool whole = population <= kCapacity;
  if (size > kCapacity || (whole ? size != population : size < wanted)) return Elements{s.key, s.row, 0};
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) s.row[i] = a.list[list * kCapacity + i];
  return Elements{s.key, s.row, size};
}

// Which of them are chosen. All where `wanted` is the population.
__device__ inline bool choose(const ImageView& v, const Elements& e, bool positive, uint32_t wanted,
                              uint32_t population) {
  const SampleRule& rule = v.a.rule;
  if (wanted == population) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < e.size; i += blockDim.x) e.row[i] |= kChosen;
    return true;
  }
  if (positive && rule.instance_balanced) {
    choose_by_instance(v, e, wanted);
    return true;
  }
  if (!positive && rule.iou_balanced) return choose_by_iou(v, e);
  const Sieve sieve = !v.strata ? open_sieve() : positive ? v.sieves->positives : v.sieves->negatives;
  return choose_at_random(v, e, wanted, sieve);
}

// Writes `wanted` indices, ascending, if the choice from these elements is right for the whole image.
template <int kCapacity>
__device__ bool write_choice(const SampleArgs& a, SelectShared<kCapacity>& s, int64_t image, const Range& rows,
                             bool positive, bool listed, int64_t* out) {
  const uint32_t population = positive ? s.counts.positives : s.counts.negatives;
  const uint32_t wanted = positive ? s.plan.positives : s.plan.negatives;
  const Elements e = listed ? listed_elements(a, s, image, positive, wanted) : all_elements(a, s, rows, positive);
  if (e.size < wanted) return false;
  const bool sieved = listed && population > kCapacity;
  const uint32_t* strata = sieved ? a.strata + image * a.rule.num_strata() : nullptr;
  if (!choose(ImageView{a, s.plan, image, rows, strata, &s.sieves, s.partial}, e, positive, wanted, population)) {
    return false;
  }
  resort(e, [](uint64_t, uint32_t row) { return row & kChosen ? uint64_t{row & kRowMask} : ~uint64_t{0}; });
  for (uint32_t i = threadIdx.x; i < wanted; i += blockDim.x) out[i] = e.row[i] & kRowMask;
  return true;
}

// One block an image.
template <int kCapacity>
__global__ void __launch_bounds__(kSelectThreads, 1) select_kernel(const SampleArgs a) {
  LIBRA_DYNAMIC_SHARED(SelectShared<kCapacity>, s);
  const int64_t image = blockIdx.x;
  const Range rows = clamped_range(a.batch.offsets, image, a.batch.rows);
  const bool swept = a.counts != nullptr;
  if (threadIdx.x == 0) s.counts = swept ? a.counts[image] : Counts{};
  __syncthreads();
  if (!swept) count_rows(a, rows.begin, rows.end, &s.counts);
  __syncthreads();
  if (threadIdx.x == 0) {
    s.plan = plan_of(a.rule, s.counts);
    if (swept) {
      const uint32_t* strata = a.strata + image * a.rule.num_strata();
      s.sieves = sieves_of(a, s.plan, s.counts, strata, kCapacity);
    }
  }
  __syncthreads();

  int64_t* out = a.indices + image * a.rule.num_samples;
  for (int positive = 1; positive >= 0; --positive) {
    if ((positive ? s.plan.positives : s.plan.negatives) == 0) continue;
    int64_t* part = positive ? out : out + s.plan.positives;
    const bool sure = swept && write_choice(a, s, image, rows, positive, true, part);
    if (!sure) write_choice(a, s, image, rows, positive, false, part);
  }
  const uint32_t taken = s.plan.positives + s.plan.negatives;
  for (uint32_t i = taken + threadIdx.x; i < a.rule.num_samples; i += blockDim.x) out[i] = -1;
  if (threadIdx.x == 0) {
    a.num_positive[image] = s.plan.positives;
    a.num_negative[image] = s.plan.negatives;
  }
}

// `launch(kernel, blocks, threads, dynamic_smem, args...)` queues a kernel.
template <int kCapacity, class Launch>
void launch_sample(const SampleArgs& a, int select_threads, const Launch& launch) {
  if (a.batch.images == 0) return;
  if (a.counts) {
    const int64_t blocks = num_row_tiles<kSweepRows>(a.batch);
    launch(count_kernel, blocks, kSweepThreads, 0, a);
    if (a.rule.iou_balanced) launch(strata_kernel, blocks, kSweepThreads, 0, a);
    launch(list_kernel, blocks, kSweepThreads, 0, a, uint32_t{kCapacity});
  }
  launch(select_kernel<kCapacity>, a.batch.images, select_threads, sizeof(SelectShared<kCapacity>), a);
}

}  // namespace libra_d2
