// The kernels as the torch side calls them: queued on a stream, with the error of the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "args.h"

namespace libra_d2 {

cudaError_t store_offsets_on(cudaStream_t stream, const int64_t* values, int64_t count, int64_t* out);
cudaError_t match_boxes_on(cudaStream_t stream, const MatchArgs& args, bool allow_low_quality);
cudaError_t batched_iou_on(cudaStream_t stream, const IouArgs& args);
cudaError_t bucketed_sample_on(cudaStream_t stream, const SampleArgs& args);

}  // namespace libra_d2
