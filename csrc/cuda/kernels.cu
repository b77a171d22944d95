// All that nvcc compiles. It stays free of torch, whose headers take longer than the kernels and
// would be read once for each GPU architecture.
#include <climits>

#include "batched_iou.cuh"
#include "bucketed_sample.cuh"
#include "kernels.h"
#include "match_boxes.cuh"
#include "offsets.cuh"

namespace libra_d2 {
namespace {

// The `launch` argument of the launch_* functions; after an error it launches nothing.
struct StreamLaunch {
  cudaStream_t stream;
  cudaError_t& error;

  template <class... Params, class... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, const Args&... args) const {
    if (blocks > INT_MAX) error = cudaErrorInvalidConfiguration;
    if (error != cudaSuccess) return;
    kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(args...);
    error = cudaGetLastError();
  }
};

}  // namespace

cudaError_t store_offsets_on(cudaStream_t stream, const int64_t* values, int64_t count, int64_t* out) {
  cudaError_t error = cudaSuccess;
  launch_store_offsets(values, count, out, StreamLaunch{stream, error});
  return error;
}

cudaError_t match_boxes_on(cudaStream_t stream, const MatchArgs& args, bool allow_low_quality) {
  cudaError_t error = cudaSuccess;
  launch_match(args, allow_low_quality, StreamLaunch{stream, error});
  return error;
}

cudaError_t batched_iou_on(cudaStream_t stream, const IouArgs& args) {
  cudaError_t error = cudaSuccess;
  launch_batched_iou(args, StreamLaunch{stream, error});
  return error;
}

cudaError_t bucketed_sample_on(cudaStream_t stream, const SampleArgs& args) {
  cudaError_t error = cudaSuccess;
  launch_sample(args, kSelectThreads, StreamLaunch{stream, error});
  return error;
}

}  // namespace libra_d2
