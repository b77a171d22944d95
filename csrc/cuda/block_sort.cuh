// The boxes that one block chooses from, and sorting them. All functions are for whole blocks.
#pragma once

#include "device.cuh"

namespace libra_d2 {

// Flags beside a box's row in its image.
constexpr uint32_t kChosen = 1u << 31;
constexpr uint32_t kBonus = 1u << 30;
constexpr uint32_t kRowMask = kBonus - 1;
static_assert(kMostRows <= kRowMask);

// Key and row of each box, in shared memory or, where they are too many, in global memory.
struct Elements {
  uint64_t* key;
  uint32_t* row;
  uint32_t size;

  __device__ bool after(uint32_t a, uint32_t b) const {
    return key[a] > key[b] || (key[a] == key[b] && row[a] > row[b]);
  }

  __device__ void swap(uint32_t a, uint32_t b) const {
    const uint64_t k = key[a];
    const uint32_t r = row[a];
    key[a] = key[b];
    row[a] = row[b];
    key[b] = k;
    row[b] = r;
  }
};

// Bitonic sort by (key, row). Every step puts the smaller element first (each merge begins with a
// mirrored step), so that elements past the end, which count as larger than all, never move.
__device__ inline void sort_block(const Elements& e) {
  __syncthreads();
  for (uint32_t run = 2; run / 2 < e.size; run *= 2) {
    for (uint32_t step = run / 2; step > 0; step /= 2) {
      for (uint32_t pair = threadIdx.x; pair < e.size; pair += blockDim.x) {
        const uint32_t first = ((pair & ~(step - 1)) << 1) | (pair & (step - 1));
        const uint32_t second = step == run / 2 ? first ^ (run - 1) : first + step;
        if (second < e.size && e.after(first, second)) e.swap(first, second);
      }
      __syncthreads();
    }
  }
}

// Gives every element the key that `key_of(old_key, row_and_flags)` returns, and sorts.
template <class KeyOf>
__device__ void resort(const Elements& e, const KeyOf& key_of) {
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < e.size; i += blockDim.x) {
    e.key[i] = key_of(e.key[i], e.row[i]);
  }
  sort_block(e);
}

// Whether element i of a sorted array is among the first n of its group: the high half of its key.
__device__ inline bool in_first_of_group(const Elements& e, uint32_t i, uint32_t n) {
  return n > 0 && (i < n || e.key[i - n] >> 32 != e.key[i] >> 32);
}

}  // namespace libra_d2
