// Box and IoU arithmetic shared by the CPU core and the CUDA kernels. Free of torch.
//
// Every result is a fixed sequence of float32 operations, each rounded once: the device side uses
// the *_rn intrinsics, which nvcc never contracts to FMA, and the host side is compiled with
// -ffp-contract=off. This is what makes the CPU, CUDA and pure-torch results equal bit for bit.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define LIBRA_HD __host__ __device__ __forceinline__
#else
#define LIBRA_HD inline __attribute__((always_inline))
#endif

namespace libra_d2 {

#if defined(__CUDA_ARCH__)
LIBRA_HD float add_rn(float a, float b) { return __fadd_rn(a, b); }
LIBRA_HD float sub_rn(float a, float b) { return __fsub_rn(a, b); }
LIBRA_HD float mul_rn(float a, float b) { return __fmul_rn(a, b); }
LIBRA_HD float div_rn(float a, float b) { return __fdiv_rn(a, b); }
LIBRA_HD double mul_rn(double a, double b) { return __dmul_rn(a, b); }
#else
LIBRA_HD float add_rn(float a, float b) { return a + b; }
LIBRA_HD float sub_rn(float a, float b) { return a - b; }
LIBRA_HD float mul_rn(float a, float b) { return a * b; }
LIBRA_HD float div_rn(float a, float b) { return a / b; }
LIBRA_HD double mul_rn(double a, double b) { return a * b; }
#endif

// One instruction each (minps/maxps), unlike fminf/fmaxf. A NaN in `a` gives `b`.
LIBRA_HD float min_of(float a, float b) { return a < b ? a : b; }
LIBRA_HD float max_of(float a, float b) { return a > b ? a : b; }

// XYXY, absolute pixels. The alignment is that of one 16-byte device load; host code that reads a
// tensor's memory, which need not be so aligned, goes through load_box.
struct alignas(16) Box {
  float x1, y1, x2, y2;
};

LIBRA_HD Box load_box(const float* p) { return Box{p[0], p[1], p[2], p[3]}; }

LIBRA_HD bool is_finite(const Box& b) {
  // x - x is 0 for finite x and NaN otherwise.
  return add_rn(add_rn(sub_rn(b.x1, b.x1), sub_rn(b.y1, b.y1)), add_rn(sub_rn(b.x2, b.x2), sub_rn(b.y2, b.y2))) == 0.f;
}

// A box with a non-finite coordinate becomes an empty one: its IoU with everything is 0.
LIBRA_HD Box sanitized(const Box& b) { return is_finite(b) ? b : Box{0.f, 0.f, 0.f, 0.f}; }

LIBRA_HD float area_of(const Box& b) { return mul_rn(sub_rn(b.x2, b.x1), sub_rn(b.y2, b.y1)); }

LIBRA_HD float intersection(const Box& a, const Box& b) {
  const float w = sub_rn(min_of(a.x2, b.x2), max_of(a.x1, b.x1));
  const float h = sub_rn(min_of(a.y2, b.y2), max_of(a.y1, b.y1));
  return mul_rn(max_of(w, 0.f), max_of(h, 0.f));
}

// inter / ((area_gt + area_box) - inter), Detectron2's pairwise_iou(gt, box). One select covers all odd cases: an empty
// intersection divides to 0 or NaN, an overflowing one to NaN, and both count as 0.
LIBRA_HD float iou_from(float inter, float gt_area, float box_area) {
  return max_of(div_rn(inter, sub_rn(add_rn(gt_area, box_area), inter)), 0.f);
}

// For sanitized boxes and their area_of.
LIBRA_HD float iou_of(const Box& gt, float gt_area, const Box& box, float box_area) {
  const float inter = intersection(gt, box);
#if defined(__CUDA_ARCH__)
  if (!(inter > 0.f)) return 0.f;  // saves the division; the host would rather have no branch
#endif
  return iou_from(inter, gt_area, box_area);
}

}  // namespace libra_d2
