// bucketed_sample, draw by draw as docs/sampling.md has it.
//
// select_kernel does it all, one block an image: it lists the image's positives and then its negatives, and marks the
// smallest keys of each group in the list. That is quick up to some thousand boxes. For larger images three grid-wide
// kernels come before it: they count, and list only the boxes whose keys are small enough to be drawn. A draw from such
// a list is checked; where the list turns out too short the block lists all boxes after all.
#pragma once

#include "block_select.cuh"
#include "sample_sweeps.cuh"

namespace libra_d2 {

constexpr int kSelectThreads = 1024;

// Flags beside a box's row in its image.
constexpr uint32_t kChosen = 1u << 31;
constexpr uint32_t kNext = 1u << 30;
constexpr uint32_t kRowMask = kNext - 1;
static_assert(kMostRows <= kRowMask);

constexpr uint32_t kNone = 0xffffffffu;

struct SelectShared {
  Selection selection;
  uint32_t instances[kGroups];
  uint32_t size, taken;
  Range rows;
  Counts counts;
  Plan plan;
  Sieve sieves[kSieves];
};

// One sign's list of an image, and the draws from it.
struct ListedBoxes {
  const SampleArgs& a;
  SelectShared& s;
  int64_t image;
  uint32_t* list;
  uint32_t size;
  bool sieved;  // the list need not hold all boxes that it should

  // Bad offsets make blocks share their lists, hence the min.
  __device__ uint32_t row(uint32_t i) const {
    return min(list[i] & kRowMask, static_cast<uint32_t>(s.rows.end - s.rows.begin) - 1);
  }
  __device__ uint32_t gt(uint32_t i) const { return static_cast<uint32_t>(a.matched_idx[s.rows.begin + row(i)]); }
  __device__ uint64_t gt_key(uint32_t gt) const {
    return uint64_t{draw_keys(*a.seed, gt, image, Domain::kGroundTruth).x} << 32 | gt;
  }
  __device__ uint32_t stratum(uint32_t i) const {
    return stratum_of(a.rule, s.plan, clean_iou(a.ious[s.rows.begin + row(i)]));
  }

  // Lists all rows whose label has this sign.
  __device__ void list_all(bool positive, uint32_t population) {
    __syncthreads();
    if (threadIdx.x == 0) s.size = 0;
    __syncthreads();
    for (int64_t row = s.rows.begin + threadIdx.x; row < s.rows.end; row += blockDim.x) {
      const int label = a.labels[row];
      if (positive ? label <= 0 : label != 0) continue;
      const uint32_t at = atomicAdd(&s.size, 1u);
      if (at < population) list[at] = static_cast<uint32_t>(row - s.rows.begin);
    }
    __syncthreads();
    size = min(s.size, population);
  }

  // Marks the quota_of(group, size) smallest keys of each group: first, refill or top-up keys, by `word`. Returns how
  // many; kNone where that may be wrong, as the image may have smaller keys than those listed.
  template <class GroupOf, class QuotaOf, class SieveOf>
  __device__ __forceinline__ uint32_t draw(int word, uint32_t groups, const GroupOf& group_of, const QuotaOf& quota_of,
                                           const SieveOf& sieve_of) const {
    const auto key_of = [&](uint32_t i) {
      const Words4 keys = box_keys(a, image, row(i));
      return static_cast<uint64_t>(word == 0 ? keys.x : word == 1 ? keys.y : keys.z) << 32 | row(i);
    };
    select_smallest(s.selection, size, groups, group_of, key_of, quota_of);
    uint32_t taken = 0, unsure = 0;
    for (uint32_t g = threadIdx.x; sieved && g < groups; g += blockDim.x) {
      const uint64_t limit = s.selection.limit[g];
      unsure += limit > 0 && !sieve_of(g).passes(static_cast<uint32_t>((limit - 1) >> 32));
    }
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      const uint32_t g = group_of(i);
      if (g >= groups || key_of(i) >= s.selection.limit[g]) continue;
      list[i] |= kChosen;
      ++taken;
    }
    taken = block_sum(taken, s.selection.partial);
    return block_sum(unsure, s.selection.partial) > 0 ? kNone : taken;
  }

  // Calls f(base, groups) for the ground truths base <= g < base + groups, as often as it takes for all. Their numbers
  // may be any.
  template <class F>
  __device__ __forceinline__ void for_ground_truths(const F& f) const {
    uint32_t last = 0;
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) last = max(last, gt(i));
    last = block_max(last, s.selection.partial);
    for (uint32_t base = 0;;) {
      f(base, min(last - base, kGroups - 1) + 1);
      if (last - base < kGroups) return;
      uint32_t below = 0;  // ~gt, so that the block's maximum is the next ground truth
      for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
        if (gt(i) > base && gt(i) - base >= kGroups) below = max(below, ~gt(i));
      }
      base = ~block_max(below, s.selection.partial);
    }
  }

  // Counts the boxes of these ground truths, and marks the one that each would give after `level` others.
  __device__ void count_instances(uint32_t base, uint32_t groups, uint32_t level) const {
    __syncthreads();
    for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x) s.instances[g] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      const uint32_t g = gt(i) - base;
      if (g < groups && atomicAdd(&s.instances[g], 1u) == level) list[i] |= kNext;
    }
    __syncthreads();
  }

  // Water-filling over the matched ground truths; the list holds all positives.
  __device__ void choose_by_instance(uint32_t n) const {
    if (threadIdx.x == 0) s.taken = 0;
    // `level` of each make `taken` boxes: the most that is not more than n. Every thread tries a level.
    uint32_t level = 0, too_high = n + 1;
    while (too_high - level > 1) {
      const uint32_t step = (too_high - level - 2) / blockDim.x + 1, mine = level + (threadIdx.x + 1) * step;
      uint32_t sum = 0;
      for_ground_truths([&](uint32_t base, uint32_t groups) {
        count_instances(base, groups, kNone);
        for (uint32_t g = 0; g < groups; ++g) sum += min(s.instances[g], mine);
      });
      const uint32_t fitting = block_sum(mine < too_high && sum <= n ? 1u : 0u, s.selection.partial);
      if (threadIdx.x + 1 == fitting) s.taken = sum;
      level += fitting * step;
      too_high = min(too_high, level + step);
    }
    for_ground_truths([&](uint32_t base, uint32_t groups) { count_instances(base, groups, level); });
    select_smallest(
        s.selection, size, 1, [&](uint32_t i) { return list[i] & kNext ? 0u : kNone; },
        [&](uint32_t i) { return gt_key(gt(i)); }, [&](uint32_t, uint32_t) { return n - s.taken; });
    const uint64_t bonus = s.selection.limit[0];
    for_ground_truths([&](uint32_t base, uint32_t groups) {
      draw(
          0, groups, [&](uint32_t i) { return gt(i) - base; },
          [&](uint32_t g, uint32_t boxes) { return level + (boxes > level && gt_key(base + g) < bonus); },
          [](uint32_t) { return open_sieve(); });
    });
  }

  // Whether the choice is right for the whole image.
  __device__ bool choose(bool positive, uint32_t wanted, uint32_t population) const {
    if (positive && a.rule.instance_balanced && wanted < population) {
      choose_by_instance(wanted);
      return true;
    }
    const SampleRule& rule = a.rule;
    const Plan& plan = s.plan;
    const bool by_iou = !positive && plan.by_iou;
    uint32_t taken = 0;
    for (int word = 0; word < (by_iou ? 3 : 1); ++word) {  // by stratum, refill, top-up; or all at once
      const bool strata = by_iou && word == 0;
      const uint32_t groups = strata ? rule.num_strata() : 1;
      const uint32_t quota = word == 0 ? wanted : word == 1 ? plan.balanced + plan.floor - taken : plan.top_up;
      const Sieve sieve = s.sieves[positive ? kPositives : word];
      for (uint32_t base = 0; base < groups && quota > 0; base += kGroups) {
        const uint32_t more = draw(
            word, min(kGroups, groups - base),
            [&](uint32_t i) {
              if (strata) return stratum(i) - base;
              return list[i] & kChosen || (by_iou && stratum(i) == rule.floor_stratum()) ? kNone : 0u;
            },
            [&](uint32_t g, uint32_t) { return strata ? quota_of(rule, plan, base + g) : quota; },
            [&](uint32_t g) { return strata ? stratum_sieve(a, plan, a.strata + image * groups, base + g) : sieve; });
        if (more == kNone) return false;
        taken += more;
      }
    }
    return true;
  }

  // Writes the chosen rows, ascending.
  __device__ void write(uint32_t wanted, int64_t* out) const {
    uint32_t* bits = a.list + a.batch.rows + s.rows.begin / 32 + image;
    const Part mine = part_of(static_cast<uint32_t>((s.rows.end - s.rows.begin) / 32 + 1));
    for (uint32_t w = mine.begin; w < mine.end; ++w) bits[w] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      if (list[i] & kChosen) atomicOr(&bits[row(i) / 32], 1u << row(i) % 32);
    }
    __syncthreads();
    uint32_t found = 0, total;
    for (uint32_t w = mine.begin; w < mine.end; ++w) found += __popc(bits[w]);
    uint32_t at = block_prefix(found, s.selection.partial, &total);
    for (uint32_t w = mine.begin; w < mine.end; ++w) {
      for (uint32_t word = bits[w]; word != 0 && at < wanted; word &= word - 1) out[at++] = w * 32 + __ffs(word) - 1;
    }
  }
};

// One block an image.
__global__ void __launch_bounds__(kSelectThreads, 1) select_kernel(const SampleArgs a) {
  LIBRA_SHARED(SelectShared, s);
  const int64_t image = blockIdx.x;
  const bool swept = a.counts != nullptr;
  if (threadIdx.x == 0) {
    s.rows = clamped_range(a.batch.offsets, image, a.batch.rows);
    s.counts = swept ? a.counts[image] : Counts{};
  }
  __syncthreads();
  if (!swept) count_rows(a, s.rows.begin, s.rows.end, &s.counts);
  __syncthreads();
  if (threadIdx.x == 0) s.plan = plan_of(a.rule, s.counts);
  __syncthreads();
  if (swept) {
    set_sieves(a, s.plan, s.counts, a.strata + image * a.rule.num_strata(), s.selection.partial, s.sieves);
  }

  int64_t* out = a.indices + image * a.rule.num_samples;
  for (int positive = 1; positive >= 0; --positive) {
    const uint32_t population = positive ? s.counts.positives : s.counts.negatives;
    const uint32_t wanted = positive ? s.plan.positives : s.plan.negatives;
    if (wanted == 0) continue;
    ListedBoxes boxes{a, s, image, list_of(a, s.rows.begin, s.counts, positive), s.counts.listed[positive], swept};
    for (bool sure = false; !sure; boxes.sieved = false) {
      if (!boxes.sieved) boxes.list_all(positive, population);
      sure = boxes.choose(positive, wanted, population);
    }
    boxes.write(wanted, positive ? out : out + s.plan.positives);
  }
  const uint32_t taken = s.plan.positives + s.plan.negatives;
  for (uint32_t i = taken + threadIdx.x; i < a.rule.num_samples; i += blockDim.x) out[i] = -1;
  if (threadIdx.x == 0) {
    a.num_positive[image] = s.plan.positives;
    a.num_negative[image] = s.plan.negatives;
  }
}

// `launch(kernel, blocks, threads, args...)` queues a kernel.
template <class Launch>
void launch_sample(const SampleArgs& a, int select_threads, const Launch& launch) {
  if (a.batch.images == 0) return;
  if (a.counts) {
    const int64_t blocks = num_row_tiles<kSweepRows>(a.batch);
    launch(count_kernel, blocks, kSweepThreads, a);
    if (a.rule.iou_balanced) launch(strata_kernel, blocks, kSweepThreads, a);
    launch(list_kernel, blocks, kSweepThreads, a);
  }
  launch(select_kernel, a.batch.images, select_threads, a);
}

}  // namespace libra_d2
