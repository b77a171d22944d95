// Handing tensors to the kernels: the device, its stream, and pointers that the kernels can use.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../checks.h"
#include "../tensors.h"
#include "kernels.h"

namespace libra_d2 {

// While it lives, the device of an op's first tensor is the current one.
class OnGpu {
 public:
  OnGpu(const char* op, const Tensor& first) : op_(op), device_(first.get_device_index()), guard_(device_) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

  // Checked offsets on the device of `first`, where they may be already.
  Tensor offsets(const char* name, const Tensor& offsets, const Tensor& first) const {
    const Tensor values = packed(offsets);
    if (!values.is_cpu()) return values;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    STD_CUDA_CHECK(cudaStreamIsCapturing(stream(), &capture));
    if (capture != cudaStreamCaptureStatusNone) {
      refuse(op_, ": expected ", name,
             " on the GPU while a CUDA graph is captured, which would keep their values, got cpu");
    }
    Tensor there = empty(first, {values.numel()}, aoti_torch_dtype_int64());
    STD_CUDA_CHECK(store_offsets_on(stream(), values.const_data_ptr<int64_t>(), values.numel(),
                                    there.mutable_data_ptr<int64_t>()));
    return there;
  }

 private:
  const char* op_;
  torch::stable::accelerator::DeviceIndex device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

// Rows of four floats that can be loaded 16 bytes at a time; a view may start anywhere.
inline Tensor aligned_boxes(const Tensor& boxes) {
  const Tensor rows = packed(boxes);
  const auto address = reinterpret_cast<uintptr_t>(rows.const_data_ptr());
  return address % alignof(Box) == 0 ? rows : torch::stable::clone(rows);
}

inline const Box* box_pointer(const Tensor& aligned) {
  return reinterpret_cast<const Box*>(aligned.const_data_ptr<float>());
}

}  // namespace libra_d2
