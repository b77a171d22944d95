// Prints a digest of what the CPU core's arithmetic gives on made-up boxes: equal for every compiler and processor.
// Free of torch, so that it also runs where there is no torch for the processor.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/image_sampler.h"
#include "cpu/vector_kernels.h"

using namespace libra_d2;

namespace {

uint64_t state = 1, digest = 14695981039346656037u;

float uniform(float below) {  // a linear congruential generator
  state = state * 6364136223846793005u + 1442695040888963407u;
  return below * static_cast<float>(state >> 40) / 16777216.f;
}

template <class T>
void add(const T* values, int64_t count) {
  for (size_t i = 0; i < count * sizeof(T); ++i) {
    digest = (digest ^ reinterpret_cast<const unsigned char*>(values)[i]) * 1099511628211u;
  }
}

std::vector<float> boxes(int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const float x = uniform(500), y = uniform(500), size = i % 3 ? uniform(200) : 32.f * static_cast<float>(i % 5);
    for (const float value : {x, y, x + size, y + size})
      values.push_back(i % 4 ? value : static_cast<float>(int(value)));
    if (i % 29 == 0) values.back() = i % 2 ? __builtin_inff() : __builtin_nanf("");
  }
  return values;
}

void match(const std::vector<float>& rows, const PackedGroundTruths& packed, int64_t num_gt) {
  const VectorKernels& kernels = best_vector_kernels();
  const GroundTruths gts = packed.rows(0, num_gt);
  const LabelRule rule = LabelRule::of(std::vector<double>{0.3, 0.7}, std::vector<int64_t>{0, -1, 1});
  const int64_t count = static_cast<int64_t>(rows.size()) / 4;
  std::vector<int32_t> selected(num_gt + 1);
  std::vector<float> best(num_gt), row(num_gt);
  struct alignas(64) Lanes {
    float lane[kLanes];
  };
  std::vector<Lanes> column_max(num_gt, Lanes{});
  static BoxTile tile;
  static TileMatch result;
  for (int64_t first = 0; first < count; first += kTile) {
    const int64_t size = std::min(kTile, count - first);
    int64_t index[kTile];
    float iou[kTile];
    int8_t label[kTile];
    kernels.load_tile(rows.data() + 4 * first, size, &tile);
    int64_t found = kernels.select_ground_truths(tile, gts, nullptr, 0.f, selected.data());
    kernels.match_tile(tile, gts, selected.data(), found, &result, found ? column_max[0].lane : nullptr);
    const float reach = kernels.store_match(result, size, rule, index, iou, label);
    for (int64_t g = 0; g < num_gt; ++g) {
      for (const float value : column_max[g].lane) best[g] = max_of(value, best[g]);
    }
    found = kernels.select_ground_truths(tile, gts, best.data(), reach, selected.data());
    kernels.label_ties(tile, gts, selected.data(), found, best.data(), iou, label);
    kernels.iou_row(sanitized(load_box(rows.data() + 4 * first)), gts, row.data());
    add(index, size), add(iou, size), add(label, size), add(row.data(), num_gt);
  }
  add(best.data(), num_gt);
}

// The lower edge of a bin, rounded twice: an FMA of the kernels puts an IoU of this value into another bin.
float edge(int64_t k) {
  const volatile float width = (0.5f - 0.01f) / 7, offset = static_cast<float>(k) * width;
  return 0.01f + offset;
}

void sample(int64_t rows) {
  std::vector<int8_t> labels(rows);
  std::vector<float> ious(rows);
  std::vector<int64_t> matched(rows), indices(64);
  for (int64_t i = 0; i < rows; ++i) {
    labels[i] = static_cast<int8_t>(uniform(3)) - 1;
    ious[i] = i % 7 ? uniform(0.6f) : edge(5);
    matched[i] = static_cast<int64_t>(uniform(9));
  }
  for (const char* upper : {"value", "max_all", "max_neg"}) {
    for (const char* kind : {"balanced", "random"}) {
      const bool balanced = kind[0] == 'b';
      const SampleRule rule =
          SampleRule::of(64, 0.25, balanced ? "instance_balanced" : "random", balanced ? "iou_balanced" : "random", 7,
                         upper, 0.5, balanced ? 0.01 : -1.0, 0.3, balanced ? 2.9 : -1.0);
      int64_t counts[2];
      cpu::ImageSampler(rule, -5).sample({labels.data(), ious.data(), matched.data(), rows, 3}, indices.data(),
                                         &counts[0], &counts[1]);
      add(indices.data(), 64), add(counts, 2);
    }
  }
}

}  // namespace

int main() {
  const std::vector<float> gts = boxes(61);
  match(boxes(1000), PackedGroundTruths(gts.data(), 61), 61);
  for (const int64_t rows : {10, 700, 9000}) sample(rows);
  std::printf("%016" PRIx64 "\n", digest);
}
