// The smallest keys of each of several groups, for whole blocks: radix selection, which counts the keys digit by digit
// and moves nothing. The result does not depend on the order of the elements.
#pragma once

#include "device.cuh"

namespace libra_d2 {

constexpr uint32_t kGroups = 256;  // at once
constexpr uint32_t kBins = 4096;

struct Selection {
  uint64_t limit[kGroups];
  uint32_t missing[kGroups];  // how many of the keys that begin like the limit shall be below it
  uint32_t bin[kBins + 1];
  uint32_t partial[32];
};

struct Part {
  uint32_t begin, end;
};

// This thread's share of n things in order.
__device__ inline Part part_of(uint32_t n) {
  const uint32_t each = (n + blockDim.x - 1) / blockDim.x, begin = min(threadIdx.x * each, n);
  return Part{begin, min(begin + each, n)};
}

// Every bin becomes the sum of those before it; bin[n] that of all.
__device__ inline void add_up(uint32_t* bin, uint32_t n, uint32_t* partial) {
  const Part mine = part_of(n);
  uint32_t sum = 0;
  for (uint32_t i = mine.begin; i < mine.end; ++i) sum += bin[i];
  uint32_t total;
  uint32_t before = block_prefix(sum, partial, &total);
  for (uint32_t i = mine.begin; i < mine.end; ++i) {
    const uint32_t here = bin[i];
    bin[i] = before;
    before += here;
  }
  if (threadIdx.x == 0) bin[n] = total;
  __syncthreads();
}

// Sets the limit of each of `groups` groups so that the quota_of(group, size) smallest keys of a group are below it, or
// all. The elements are 0 <= i < size; one whose group_of(i) is not below `groups` does not count. Keys differ.
template <class GroupOf, class KeyOf, class QuotaOf>
__device__ __forceinline__ void select_smallest(Selection& s, uint32_t size, uint32_t groups, const GroupOf& group_of,
                                                const KeyOf& key_of, const QuotaOf& quota_of) {
  const int digit = __clz(static_cast<int>(groups - 1)) - __clz(static_cast<int>(kBins - 1));  // bits at a time
  const uint32_t last_of_digit = (1u << digit) - 1;
  __syncthreads();
  for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x) {
    s.limit[g] = 0;
    s.missing[g] = 1;
  }
  for (int open = 64; open > 0;) {  // bits that the limits do not have yet
    const int shift = max(open - digit, 0);
    for (uint32_t b = threadIdx.x; b < groups << digit; b += blockDim.x) s.bin[b] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      const uint32_t g = group_of(i);
      if (g >= groups || s.missing[g] == 0) continue;
      const uint64_t key = key_of(i);
      if ((key ^ s.limit[g]) >> 1 >> (open - 1) != 0) continue;  // a shift by 64 is undefined
      atomicAdd(&s.bin[g << digit | (static_cast<uint32_t>(key >> shift) & last_of_digit)], 1u);
    }
    __syncthreads();
    add_up(s.bin, groups << digit, s.partial);
    uint32_t undecided = 0;
    for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x) {
      const uint32_t begin = g << digit;
      if (open == 64) {
        const uint32_t population = s.bin[begin + last_of_digit + 1] - s.bin[begin], quota = quota_of(g, population);
        s.missing[g] = quota < population ? quota : 0;
        if (quota >= population && quota > 0) s.limit[g] = ~uint64_t{0};
      }
      if (s.missing[g] == 0) continue;
      uint32_t first = 0, last = last_of_digit;  // they enclose the last bin with no more than `missing` before it
      while (first < last) {
        const uint32_t middle = last - (last - first) / 2;
        if (s.bin[begin + middle] - s.bin[begin] <= s.missing[g]) {
          first = middle;
        } else {
          last = middle - 1;
        }
      }
      s.limit[g] |= static_cast<uint64_t>(first) << shift;
      s.missing[g] -= s.bin[begin + first] - s.bin[begin];
      undecided += s.missing[g] > 0;
    }
    open = block_sum(undecided, s.partial) > 0 ? shift : 0;
  }
}

}  // namespace libra_d2
