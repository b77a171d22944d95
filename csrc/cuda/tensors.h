// Handing tensors to the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include "args.h"

namespace libra_d2 {

// Rows of four floats that can be loaded 16 bytes at a time; a view may start anywhere.
inline at::Tensor aligned_boxes(const at::Tensor& boxes) {
  const at::Tensor packed = boxes.contiguous();
  const auto address = reinterpret_cast<uintptr_t>(packed.const_data_ptr<float>());
  return address % alignof(Box) == 0 ? packed : packed.clone();
}

inline const Box* box_pointer(const at::Tensor& aligned) {
  return reinterpret_cast<const Box*>(aligned.const_data_ptr<float>());
}

// Checked offsets on a device. Those on the CPU go through pinned memory, from which the copy does not wait.
inline at::Tensor offsets_on(at::Device device, const at::Tensor& offsets) {
  at::Tensor packed = offsets.contiguous();
  if (packed.is_cpu() && !packed.is_pinned()) packed = packed.pin_memory();
  return packed.to(device, packed.scalar_type(), /*non_blocking=*/true);
}

}  // namespace libra_d2
