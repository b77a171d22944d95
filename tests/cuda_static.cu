// Every kernel as the launchers instantiate it, without torch: for the compiler's own account of them.
#include "cuda/batched_iou.cuh"
#include "cuda/match.cuh"
#include "cuda/sample.cuh"

namespace libra_d2 {

struct Launch {
  template <class... Params, class... Args>
  void operator()(void (*kernel)(Params...), int64_t blocks, int threads, size_t dynamic_smem,
                  const Args&... args) const {
    kernel<<<static_cast<unsigned>(blocks), threads, dynamic_smem>>>(args...);
  }
};

void launch_all(const MatchArgs& match, const IouArgs& iou, const SampleArgs& sample) {
  launch_match(match, true, Launch{});
  launch_batched_iou(iou, Launch{});
  launch_sample<kSelectCapacity>(sample, kSelectThreads, Launch{});
}

}  // namespace libra_d2
