// Offsets of the CPU reach the device as a kernel's arguments: nothing waits, no memory is pinned for it, and the
// caller may change the offsets as soon as the op returns.
#pragma once

#include <algorithm>

#include "device.cuh"

namespace libra_d2 {

constexpr int kOffsetsAtOnce = 256;  // 2 KiB; a launch takes up to 4 KiB of arguments

struct SomeOffsets {
  int64_t value[kOffsetsAtOnce];
};

__global__ void __launch_bounds__(kOffsetsAtOnce)
    store_offsets_kernel(const SomeOffsets some, int count, int64_t* out) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < count) out[i] = some.value[i];
}

template <class Launch>
void launch_store_offsets(const int64_t* values, int64_t count, int64_t* out, const Launch& launch) {
  for (int64_t first = 0; first < count; first += kOffsetsAtOnce) {
    SomeOffsets some{};
    const int size = static_cast<int>(std::min(count - first, int64_t{kOffsetsAtOnce}));
    std::copy_n(values + first, size, some.value);
    launch(store_offsets_kernel, 1, kOffsetsAtOnce, some, size, out + first);
  }
}

}  // namespace libra_d2
