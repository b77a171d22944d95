// match_boxes: IoU, row maximum, column maximum and labels in one pass, without the matrix; then, where low-quality
// matches are asked for, a second pass that re-evaluates the few pairs that can tie with a ground truth's best IoU.
#pragma once

#include "device.cuh"

namespace libra_d2 {

constexpr int kMatchThreads = 256;
constexpr int kRaggedThreads = 64;  // proposals are few: more blocks, for more multiprocessors
constexpr int kGtTile = 64;

struct GtTile {
  Box box[kGtTile];
  float area[kGtTile];
  unsigned column_max[kGtTile];
};

// IoUs are not negative, so their bits order like unsigned integers.
__device__ inline unsigned bits_of(float iou) { return __float_as_uint(iou); }

__device__ inline Box match_box(const MatchArgs& a, const RowTile& tile, int64_t row) {
  return sanitized(load_box(a.boxes + (a.batch.offsets ? row : row - tile.image_begin)));
}

// The bounding box of the warp's boxes; those that cannot overlap anything do not count.
__device__ inline Box warp_bounds(const Box& box, bool live) {
  constexpr float kHuge = 3.4e38f;
  const bool counts = live && box.x1 < box.x2 && box.y1 < box.y2;
  Box b = counts ? box : Box{kHuge, kHuge, -kHuge, -kHuge};
  for (int d = 16; d > 0; d >>= 1) {
    b.x1 = min_of(b.x1, __shfl_xor_sync(kFullWarp, b.x1, d));
    b.y1 = min_of(b.y1, __shfl_xor_sync(kFullWarp, b.y1, d));
    b.x2 = max_of(b.x2, __shfl_xor_sync(kFullWarp, b.x2, d));
    b.y2 = max_of(b.y2, __shfl_xor_sync(kFullWarp, b.y2, d));
  }
  return b;
}

// One box a thread. kCull skips the ground truths outside the warp's bounding box, which pays where neighbours in
// memory are neighbours in the image, as anchors are. A skipped pair has IoU 0 and changes neither maximum.
template <bool kCull, bool kColumnMax>
__global__ void __launch_bounds__(kMatchThreads) match_kernel(const MatchArgs a) {
  LIBRA_SHARED(GtTile, gts);
  const RowTile tile = row_tile<kCull ? kMatchThreads : kRaggedThreads>(a.batch, blockIdx.x);
  if (tile.begin >= tile.end) return;  // the whole block
  const int lane = lane_of_thread();
  const int64_t row = tile.first + threadIdx.x;
  const bool live = row >= tile.begin && row < tile.end;
  const Box box = live ? match_box(a, tile, row) : Box{0.f, 0.f, 0.f, 0.f};
  const float area = area_of(box);
  const Box bounds = kCull ? warp_bounds(box, live) : box;

  float best = 0.f;
  int64_t best_gt = 0;
  const Range range = clamped_range(a.gt_offsets, tile.image, a.num_gt);
  for (int64_t start = range.begin; start < range.end; start += kGtTile) {
    const int count = static_cast<int>(min(range.end - start, int64_t{kGtTile}));
    for (int j = threadIdx.x; j < count; j += blockDim.x) {
      gts.box[j] = sanitized(load_box(a.gt_boxes + start + j));
      gts.area[j] = area_of(gts.box[j]);
      gts.column_max[j] = 0u;
    }
    __syncthreads();
    const auto visit = [&](int j) {
      // Saves most divisions where only the best counts: rounding is monotonic, so that no other IoU can exceed it.
      const float inter = intersection(gts.box[j], box), united = sub_rn(add_rn(gts.area[j], area), inter);
      if (!kColumnMax && !(inter > 0.f && inter >= mul_rn(best, united))) return;
      const float iou = iou_of(gts.box[j], gts.area[j], box, area);
      if (iou > best) {  // strictly: the first ground truth wins a tie
        best = iou;
        best_gt = start + j;
      }
      if (kColumnMax) {
        const unsigned column = warp_max(bits_of(iou));
        if (lane == 0 && column != 0u) atomicMax(&gts.column_max[j], column);
      }
    };
    for (int j = 0; j < (kCull ? 0 : count); ++j) visit(j);
    for (int chunk = 0; kCull && chunk < count; chunk += 32) {
      bool hit = false;
      if (chunk + lane < count) {
        const Box& g = gts.box[chunk + lane];
        hit = g.x1 < bounds.x2 && g.x2 > bounds.x1 && g.y1 < bounds.y2 && g.y2 > bounds.y1;
      }
      for (unsigned todo = __ballot_sync(kFullWarp, hit); todo; todo &= todo - 1) visit(chunk + __ffs(todo) - 1);
    }
    __syncthreads();
    if (kColumnMax) {
      for (int j = threadIdx.x; j < count; j += blockDim.x) {
        if (gts.column_max[j]) atomicMax(&a.column_max[start + j], gts.column_max[j]);
      }
    }
    __syncthreads();
  }
  if (live) {
    a.matched_iou[row] = best;
    a.matched_idx[row] = best > 0.f ? best_gt - range.begin : 0;
    a.matched_label[row] = a.rule.label_of(best);
  }
}

// Labels 1 every box that ties with a ground truth's best IoU, if that is above 0. Only a box whose
// own best IoU reaches the ground truth's can tie, so most warps leave after comparing maxima.
__global__ void __launch_bounds__(kMatchThreads) low_quality_kernel(const MatchArgs a) {
  const RowTile tile = row_tile<kMatchThreads>(a.batch, blockIdx.x);
  const int64_t row = tile.first + threadIdx.x;
  const bool live = row >= tile.begin && row < tile.end;
  const float row_max = live ? a.matched_iou[row] : 0.f;
  const unsigned highest = warp_max(bits_of(row_max));
  if (highest == 0u) return;  // the whole warp
  const Box box = live ? match_box(a, tile, row) : Box{0.f, 0.f, 0.f, 0.f};
  const float area = area_of(box);
  const int lane = lane_of_thread();

  bool tie = false;
  const Range range = clamped_range(a.gt_offsets, tile.image, a.num_gt);
  for (int64_t start = range.begin; start < range.end; start += 32) {
    const unsigned mine = start + lane < range.end ? a.column_max[start + lane] : 0u;
    unsigned todo = __ballot_sync(kFullWarp, mine != 0u && mine <= highest);
    while (todo) {
      const int j = __ffs(todo) - 1;
      todo &= todo - 1;
      const float column = __uint_as_float(__shfl_sync(kFullWarp, mine, j));
      if (row_max >= column) {
        const Box gt = sanitized(load_box(a.gt_boxes + start + j));
        tie |= iou_of(gt, area_of(gt), box, area) == column;
      }
    }
  }
  if (tie) a.matched_label[row] = 1;
}

// `launch(kernel, blocks, threads, args...)` queues a kernel.
template <class Launch>
void launch_match(const MatchArgs& a, bool allow_low_quality, const Launch& launch) {
  if (a.batch.images == 0 || a.batch.rows == 0) return;
  const int64_t blocks = num_row_tiles<kMatchThreads>(a.batch);
  if (a.batch.offsets == nullptr) {
    launch(allow_low_quality ? match_kernel<true, true> : match_kernel<true, false>, blocks, kMatchThreads, a);
  } else {
    launch(allow_low_quality ? match_kernel<false, true> : match_kernel<false, false>,
           num_row_tiles<kRaggedThreads>(a.batch), kRaggedThreads, a);
  }
  if (allow_low_quality) launch(low_quality_kernel, blocks, kMatchThreads, a);
}

}  // namespace libra_d2
