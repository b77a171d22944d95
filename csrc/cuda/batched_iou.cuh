// batched_iou: the IoU matrices of all images, one after another in one packed buffer.
#pragma once

#include "device.cuh"

namespace libra_d2 {

constexpr int kIouThreads = 256;
constexpr int kIouRows = 32;

struct IouShared {
  unsigned long long partial[32];
};

// One block writes the entries of up to kIouRows rows, which lie side by side.
__global__ void __launch_bounds__(kIouThreads) batched_iou_kernel(const IouArgs a) {
  LIBRA_SHARED(IouShared, shared);
  const RowTile tile = row_tile<kIouRows>(a.batch, blockIdx.x);
  if (tile.begin >= tile.end) return;  // the whole block
  unsigned long long mine = 0;
  for (int64_t n = threadIdx.x; n < tile.image; n += blockDim.x) {
    const Range rows = clamped_range(a.batch.offsets, n, a.batch.rows);
    const Range gts = clamped_range(a.gt_offsets, n, a.num_gt);
    mine += static_cast<unsigned long long>(rows.end - rows.begin) * (gts.end - gts.begin);
  }
  const int64_t image_start = static_cast<int64_t>(block_sum(mine, shared.partial));

  const Range range = clamped_range(a.gt_offsets, tile.image, a.num_gt);
  const int64_t columns = range.end - range.begin;
  if (columns == 0) return;
  // Entry threadIdx.x of the tile, then every kIouThreads-th: without a 64-bit division.
  const unsigned narrow = static_cast<unsigned>(min(columns, int64_t{kIouThreads}));
  const bool wide = columns >= kIouThreads;
  int64_t row = tile.begin + (wide ? 0u : threadIdx.x / narrow);
  int64_t column = wide ? threadIdx.x : threadIdx.x % narrow;
  const int64_t row_step = wide ? 0 : kIouThreads / narrow;
  const int64_t column_step = wide ? kIouThreads : kIouThreads % narrow;
  while (row < tile.end) {
    const int64_t at = image_start + (row - tile.image_begin) * columns + column;
    if (at < 0 || at >= a.total) return;  // only where `total` does not belong to the offsets
    const Box box = sanitized(load_box(a.boxes + row));
    const Box gt = sanitized(load_box(a.gt_boxes + range.begin + column));
    a.ious[at] = iou_of(gt, area_of(gt), box, area_of(box));
    row += row_step;
    column += column_step;
    if (column >= columns) {
      column -= columns;
      ++row;
    }
  }
}

template <class Launch>
void launch_batched_iou(const IouArgs& a, const Launch& launch) {
  if (a.batch.images == 0 || a.total == 0) return;
  launch(batched_iou_kernel, num_row_tiles<kIouRows>(a.batch), kIouThreads, a);
}

}  // namespace libra_d2
