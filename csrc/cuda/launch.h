// What the launchers share: queueing kernels on torch's current stream and handing tensors to them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <limits>

#include "../checks.h"
#include "device.cuh"

namespace libra_d2 {

// The `launch` argument of the launch_* functions.
struct StreamLaunch {
  cudaStream_t stream = c10::cuda::getCurrentCUDAStream();

  template <class... Params, class... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, size_t dynamic_smem,
                  const Args&... args) const {
    TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "expected at most 2^31 - 1 blocks, got ",
                blocks, ": split the batch");
    constexpr size_t kWithoutAsking = 48 * 1024;
    if (dynamic_smem > kWithoutAsking) {
      C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(dynamic_smem)));
    }
    kernel<<<static_cast<unsigned>(blocks), threads, dynamic_smem, stream>>>(args...);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// Rows of four floats that can be loaded 16 bytes at a time; a view may start anywhere.
inline at::Tensor aligned_boxes(const at::Tensor& boxes) {
  const at::Tensor packed = boxes.contiguous();
  const auto address = reinterpret_cast<uintptr_t>(packed.const_data_ptr<float>());
  return address % alignof(float4) == 0 ? packed : packed.clone();
}

inline const float4* box_pointer(const at::Tensor& aligned) {
  return reinterpret_cast<const float4*>(aligned.const_data_ptr<float>());
}

// Offsets beside `rows`, on its device. Those on the CPU are checked, and go through pinned memory,
// from which the copy does not wait.
inline at::Tensor offsets_on(const char* op, const char* name, const at::Tensor& offsets,
                             const at::Tensor& rows) {
  at::Tensor packed = offsets.contiguous();
  if (packed.is_cpu()) {
    check_offset_values(op, name, packed, rows.size(0));
    if (!packed.is_pinned()) packed = packed.pin_memory();
  }
  return packed.to(rows.device(), packed.scalar_type(), /*non_blocking=*/true);
}

}  // namespace libra_d2
