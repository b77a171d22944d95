// Checks of what a kernel would otherwise crash on. The Python wrappers check more and run first;
// these hold for callers of torch.ops.libra_d2 as well. A sentence reads "<op>: expected ..., got
// ...".
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace libra_d2 {

inline void check_dtype(const char* op, const char* name, const at::Tensor& t,
                        at::ScalarType dtype) {
  TORCH_CHECK_TYPE(t.layout() == at::kStrided, op, ": expected ", name,
                   " to be a dense (strided) tensor, got ", t.layout());
  TORCH_CHECK_TYPE(t.scalar_type() == dtype, op, ": expected ", name, " of dtype ", dtype, ", got ",
                   t.scalar_type());
}

inline void check_device(const char* op, const char* name, const at::Tensor& t, at::Device device) {
  TORCH_CHECK_VALUE(t.device() == device, op, ": expected ", name, " on ", device, ", got ",
                    t.device());
}

inline void check_boxes(const char* op, const char* name, const at::Tensor& t, at::Device device) {
  check_dtype(op, name, t, at::kFloat);
  check_device(op, name, t, device);
  TORCH_CHECK_VALUE(t.dim() == 2 && t.size(1) == 4, op, ": expected ", name,
                    " of shape [R, 4], got ", t.sizes());
}

inline void check_rows(const char* op, const char* name, const at::Tensor& t, at::ScalarType dtype,
                       int64_t rows, at::Device device) {
  check_dtype(op, name, t, dtype);
  check_device(op, name, t, device);
  TORCH_CHECK_VALUE(t.dim() == 1 && t.size(0) == rows, op, ": expected ", name, " of shape [", rows,
                    "], one value a row, got ", t.sizes());
}

inline void check_offsets(const char* op, const char* name, const at::Tensor& t,
                          at::Device device) {
  check_dtype(op, name, t, at::kLong);
  TORCH_CHECK_VALUE(t.device() == device || t.is_cpu(), op, ": expected ", name, " on ", device,
                    " or on the CPU, got ", t.device());
  TORCH_CHECK_VALUE(t.dim() == 1 && t.size(0) >= 1, op, ": expected ", name,
                    " of shape [N + 1], got ", t.sizes());
}

inline void check_images(const char* op, const char* name, const at::Tensor& t, int64_t images) {
  TORCH_CHECK_VALUE(t.size(0) == images + 1, op, ": expected ", name, " for ", images,
                    " images, got ", t.size(0) - 1);
}

// For contiguous offsets on the CPU.
inline void check_offset_values(const char* op, const char* name, const at::Tensor& t,
                                int64_t rows) {
  const int64_t* values = t.const_data_ptr<int64_t>();
  const int64_t images = t.size(0) - 1;
  TORCH_CHECK_VALUE(values[0] == 0, op, ": expected ", name, " to start at 0, got ", values[0]);
  for (int64_t n = 0; n < images; ++n) {
    TORCH_CHECK_VALUE(values[n] <= values[n + 1], op, ": expected ", name, " not to decrease, got ",
                      values[n], " before ", values[n + 1]);
  }
  TORCH_CHECK_VALUE(values[images] == rows, op, ": expected ", name, " to end at ", rows,
                    ", the number of rows, got ", values[images]);
}

inline void check_range(const char* op, const char* name, double value, double low, double high) {
  TORCH_CHECK_VALUE(value >= low && value <= high, op, ": expected ", name, " to be a number from ",
                    low, " to ", high, ", got ", value);
}

}  // namespace libra_d2
