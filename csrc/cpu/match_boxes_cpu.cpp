// match_boxes on the CPU: tiles of boxes in parallel, each against the ground truths that may overlap it. Low-quality
// matches take a second pass over the few pairs that can tie with a best IoU.
#include <algorithm>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "../tensors.h"
#include "vector_kernels.h"

namespace libra_d2 {
namespace {

// Rows of `boxes` that images [first_image, last_image) match; several images where boxes are shared.
struct Segment {
  int64_t begin, end, first_image, last_image, first_tile;

  // Of a tile and an image in [tile][image]; segments of several images come alone.
  int64_t place(int64_t tile, int64_t image) const { return tile * (last_image - first_image) + image - first_image; }
};

struct Matching {
  const float* boxes;
  int64_t num_boxes, num_images;
  bool shared;
  const PackedGroundTruths& gts;
  const int64_t* gt_offsets;
  LabelRule rule;
  int64_t* index;
  float* iou;
  int8_t* label;
  const VectorKernels& kernels = best_vector_kernels();
  std::vector<Segment> segments{};
  int64_t num_tiles = 0;
  int64_t num_pairs = 0;

  void add_segment(int64_t begin, int64_t end, int64_t first_image, int64_t last_image) {
    segments.push_back({begin, end, first_image, last_image, num_tiles});
    num_tiles += (end - begin + kTile - 1) / kTile;
    num_pairs += (end - begin) * (gt_offsets[last_image] - gt_offsets[first_image]);
  }

  GroundTruths gts_of(int64_t image) const { return gts.rows(gt_offsets[image], gt_offsets[image + 1]); }

  int64_t output_row(int64_t image, int64_t row) const { return shared ? image * num_boxes + row : row; }

  std::vector<Segment>::const_iterator segment_of(int64_t tile) const {
    return std::upper_bound(segments.begin(), segments.end(), tile,
                            [](int64_t t, const Segment& s) { return t < s.first_tile; }) -
           1;
  }

  // f(segment, tile, first row, number of rows) for each tile of [begin, end).
  template <class F>
  void for_tiles(int64_t begin, int64_t end, const F& f) const {
    auto segment = segment_of(begin);
    for (int64_t t = begin; t < end; ++t) {
      while (segment + 1 != segments.end() && (segment + 1)->first_tile <= t) ++segment;
      const int64_t row = segment->begin + (t - segment->first_tile) * kTile;
      f(*segment, t, row, std::min(kTile, segment->end - row));
    }
  }

  // Tiles a thread takes at least: some 50 microseconds of work.
  int64_t grain() const {
    constexpr int64_t kPairsPerTask = 1 << 17;
    return 1 + kPairsPerTask * num_tiles / (num_pairs + 8 * kTile * num_tiles + 1);
  }
};

// Running maxima over the boxes that one thread sees: a vector for each ground truth.
class ColumnMaxima {
 public:
  ColumnMaxima(int64_t begin, int64_t end) : begin_(begin), end_(end), values_(new Vector[end - begin]()) {}

  float* of(int64_t gt) { return values_[gt - begin_].lane; }

  void merge_into(std::vector<float>& best) const {
    for (int64_t g = begin_; g < end_; ++g) {
      for (float value : values_[g - begin_].lane) best[g] = max_of(value, best[g]);
    }
  }

 private:
  struct alignas(64) Vector {
    float lane[kLanes];
  };
  int64_t begin_, end_;
  std::unique_ptr<Vector[]> values_;
};

// What low-quality matching needs to know of the first pass.
struct Best {
  std::vector<float> of_gt;    // the best IoU of each ground truth
  std::vector<float> of_tile;  // [tile][image of its segment], the best IoU of a tile's boxes
};

// Fills index, iou and label, and `best` if it is given.
void match(const Matching& m, Best* best) {
  std::mutex mutex;
  torch::stable::parallel_for(0, m.num_tiles, m.grain(), [&](int64_t begin, int64_t end) {
    const int64_t first_gt = m.gt_offsets[m.segment_of(begin)->first_image];
    const int64_t last_gt = m.gt_offsets[m.segment_of(end - 1)->last_image];
    ColumnMaxima maxima(first_gt, best ? last_gt : first_gt);
    std::vector<int32_t> selected(last_gt - first_gt + 1);
    BoxTile tile;
    TileMatch result;
    m.for_tiles(begin, end, [&](const Segment& segment, int64_t t, int64_t row, int64_t rows) {
      m.kernels.load_tile(m.boxes + 4 * row, rows, &tile);
      for (int64_t n = segment.first_image; n < segment.last_image; ++n) {
        const GroundTruths gts = m.gts_of(n);
        const int64_t count = m.kernels.select_ground_truths(tile, gts, nullptr, 0.f, selected.data());
        m.kernels.match_tile(tile, gts, selected.data(), count, &result,
                             best && count ? maxima.of(m.gt_offsets[n]) : nullptr);
        const int64_t out = m.output_row(n, row);
        const float highest = m.kernels.store_match(result, rows, m.rule, m.index + out, m.iou + out, m.label + out);
        if (best) best->of_tile[segment.place(t, n)] = highest;
      }
    });
    if (best) {
      const std::lock_guard<std::mutex> lock(mutex);
      maxima.merge_into(best->of_gt);
    }
  });
}

// A pair can tie with the ground truth's best IoU only if the box's own best IoU reaches it.
void add_low_quality(const Matching& m, const Best& best) {
  std::vector<float> lowest;  // of each image's ground truths; 2 where none overlaps a box
  for (int64_t n = 0; n < m.num_images; ++n) {
    float value = 2.f;
    for (int64_t g = m.gt_offsets[n]; g < m.gt_offsets[n + 1]; ++g) {
      if (best.of_gt[g] > 0.f) value = min_of(best.of_gt[g], value);
    }
    lowest.push_back(value);
  }
  torch::stable::parallel_for(0, m.num_tiles, m.grain(), [&](int64_t begin, int64_t end) {
    std::vector<int32_t> selected;
    BoxTile tile;
    m.for_tiles(begin, end, [&](const Segment& segment, int64_t t, int64_t row, int64_t rows) {
      bool have_tile = false;
      for (int64_t n = segment.first_image; n < segment.last_image; ++n) {
        const float reach = best.of_tile[segment.place(t, n)];
        if (reach < lowest[n]) continue;
        if (!have_tile) m.kernels.load_tile(m.boxes + 4 * row, rows, &tile);
        have_tile = true;
        const GroundTruths gts = m.gts_of(n);
        const float* own_best = best.of_gt.data() + m.gt_offsets[n];
        const int64_t out = m.output_row(n, row);
        selected.resize(gts.count + 1);
        const int64_t count = m.kernels.select_ground_truths(tile, gts, own_best, reach, selected.data());
        m.kernels.label_ties(tile, gts, selected.data(), count, own_best, m.iou + out, m.label + out);
      }
    });
  });
}

std::tuple<Tensor, Tensor, Tensor> match_boxes_cpu(const Tensor& boxes, const Tensor& gt_boxes,
                                                   const std::optional<Tensor>& box_offsets, const Tensor& gt_offsets,
                                                   const std::vector<double>& thresholds,
                                                   const std::vector<int64_t>& labels, bool allow_low_quality) {
  check_match_boxes(boxes, gt_boxes, box_offsets, gt_offsets);
  const LabelRule rule = LabelRule::of(thresholds, labels);
  const int64_t images = gt_offsets.size(0) - 1;
  const Tensor gt_bounds = packed(gt_offsets);
  const Tensor box_bounds = packed(box_offsets ? *box_offsets : gt_offsets);

  const int64_t rows = boxes.size(0);
  const std::vector<int64_t> shape = box_offsets ? std::vector<int64_t>{rows} : std::vector<int64_t>{images, rows};
  Tensor index = empty(boxes, shape, aoti_torch_dtype_int64());
  Tensor iou = empty(boxes, shape, aoti_torch_dtype_float32());
  Tensor label = empty(boxes, shape, aoti_torch_dtype_int8());
  if (index.numel() == 0) return {index, iou, label};

  const Tensor packed_boxes = packed(boxes), packed_gts = packed(gt_boxes);
  const PackedGroundTruths gts(packed_gts.const_data_ptr<float>(), gt_boxes.size(0));
  Matching m{packed_boxes.const_data_ptr<float>(),
             rows,
             images,
             !box_offsets,
             gts,
             gt_bounds.const_data_ptr<int64_t>(),
             rule,
             index.mutable_data_ptr<int64_t>(),
             iou.mutable_data_ptr<float>(),
             label.mutable_data_ptr<int8_t>()};
  if (!box_offsets) {
    m.add_segment(0, rows, 0, images);
  } else {
    const int64_t* bounds = box_bounds.const_data_ptr<int64_t>();
    for (int64_t n = 0; n < images; ++n) {
      if (bounds[n] < bounds[n + 1]) m.add_segment(bounds[n], bounds[n + 1], n, n + 1);
    }
  }
  if (!allow_low_quality) {
    match(m, nullptr);
  } else {
    Best best{std::vector<float>(gt_boxes.size(0), 0.f),
              std::vector<float>(m.num_tiles * (m.shared ? images : 1), 0.f)};
    match(m, &best);
    add_low_quality(m, best);
  }
  return {index, iou, label};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(libra_d2, CPU, m) { m.impl("match_boxes", TORCH_BOX(&match_boxes_cpu)); }

}  // namespace libra_d2
