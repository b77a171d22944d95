// What every kernel here uses: warp helpers, the map from blocks to rows, and the launch convention.
//
// The kernels are free of torch, so that the tests can compile the same files for the host against
// an emulator of the CUDA execution model. It predefines LIBRA_SHARED and the built-ins.
#pragma once

#include <cstdint>

#include "args.h"

#if !defined(LIBRA_SHARED)
#define LIBRA_SHARED(Type, name) __shared__ Type name
#endif

namespace libra_d2 {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ inline int lane_of_thread() { return static_cast<int>(threadIdx.x & 31u); }

__device__ inline unsigned warp_max(unsigned v) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kFullWarp, v);
#else
  for (int d = 16; d > 0; d >>= 1) {
    const unsigned other = __shfl_xor_sync(kFullWarp, v, d);
    v = v > other ? v : other;
  }
  return v;
#endif
}

// The same maximum in every thread; all threads of the block must call it. `partial` holds 32 values.
__device__ inline unsigned block_max(unsigned v, unsigned* partial) {
  v = warp_max(v);
  if (lane_of_thread() == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  v = warp_max(partial[min(threadIdx.x & 31u, (blockDim.x - 1) >> 5)]);
  __syncthreads();  // `partial` may be written again
  return v;
}

// The sum over the lanes up to this one.
template <class T>
__device__ T warp_prefix(T v) {
  for (int d = 1; d < 32; d *= 2) {
    const T other = __shfl_up_sync(kFullWarp, v, d);
    if (lane_of_thread() >= d) v += other;
  }
  return v;
}

// The sum over the threads before this one, and that over all of them, which must all call it.
template <class T>
__device__ T block_prefix(T v, T* partial, T* total) {
  const unsigned lane = threadIdx.x & 31u, warp = threadIdx.x >> 5;
  const T upto = warp_prefix(v);
  if (lane == 31) partial[warp] = upto;
  __syncthreads();
  const T warps = warp_prefix(lane < blockDim.x >> 5 ? partial[lane] : T{0});
  *total = __shfl_sync(kFullWarp, warps, 31);
  const T before = __shfl_sync(kFullWarp, warps, warp + 31);  // of the warp before, modulo 32
  __syncthreads();
  return (warp > 0 ? before : T{0}) + upto - v;
}

template <class T>
__device__ T block_sum(T v, T* partial) {
  T total;
  block_prefix(v, partial, &total);
  return total;
}

__device__ inline Box load_box(const Box* p) {
  const float4 v = __ldg(reinterpret_cast<const float4*>(p));  // one 16-byte load
  return Box{v.x, v.y, v.z, v.w};
}

struct Range {
  int64_t begin, end;
};

// offsets[i]:offsets[i+1], forced into 0:limit: bad offsets may give wrong results, never a bad address.
__device__ inline Range clamped_range(const int64_t* offsets, int64_t i, int64_t limit) {
  const int64_t begin = max(int64_t{0}, min(offsets[i], limit));
  return Range{begin, max(begin, min(offsets[i + 1], limit))};
}

// Rows [begin, end) of `image`, all inside the kTile rows from `first` on. They are rows of the
// packed outputs; `image_begin` is where the image's own rows start.
struct RowTile {
  int64_t image, image_begin, first, begin, end;
};

// The host must not wait to read the offsets, so the number of blocks may depend on their number and on the total only.
// Image n gets one block for each aligned tile that it touches, from block offsets[n] / kTile + n on.
template <int kTile>
int64_t num_row_tiles(const Batch& b) {
  return b.offsets ? b.rows / kTile + b.images : (b.rows + kTile - 1) / kTile * b.images;
}

template <int kTile>
__device__ RowTile row_tile(const Batch& b, unsigned block) {
  if (!b.offsets) {
    const unsigned tiles = static_cast<unsigned>((b.rows + kTile - 1) / kTile);
    const int64_t image = block / tiles;
    const int64_t image_begin = image * b.rows;
    const int64_t first = image_begin + static_cast<int64_t>(block % tiles) * kTile;
    return RowTile{image, image_begin, first, first, min(first + kTile, image_begin + b.rows)};
  }
  int64_t low = 0, high = b.images - 1;  // the last image that starts at or before this block
  while (low < high) {
    const int64_t mid = high - (high - low) / 2;
    if (clamped_range(b.offsets, mid, b.rows).begin / kTile + mid <= block) {
      low = mid;
    } else {
      high = mid - 1;
    }
  }
  const Range rows = clamped_range(b.offsets, low, b.rows);
  const int64_t first = (static_cast<int64_t>(block) - low) * kTile;
  return RowTile{low, rows.begin, first, max(first, rows.begin), min(first + kTile, rows.end)};
}

}  // namespace libra_d2
