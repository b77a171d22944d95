// Included by vector_kernels.cpp once for each instruction set, inside a namespace and under a target pragma of its
// own; so it has no include guard. Vectors of kWidth floats are in GCC's and Clang's own notation and fill a register:
// what is wider than one, GCC 12 takes apart lane by lane.

#define LIBRA_INLINE inline __attribute__((always_inline))

typedef float FloatVec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));

constexpr float kHuge = 3.4e38f;
constexpr int kGroup = 4;  // ground truths a pass over the tile: one load of a box serves them all

LIBRA_INLINE FloatVec load(const float* p) { return *reinterpret_cast<const FloatVec*>(p); }
LIBRA_INLINE IntVec load(const int32_t* p) { return *reinterpret_cast<const IntVec*>(p); }
LIBRA_INLINE void store(float* p, const FloatVec& v) { *reinterpret_cast<FloatVec*>(p) = v; }
LIBRA_INLINE void store(int32_t* p, const IntVec& v) { *reinterpret_cast<IntVec*>(p) = v; }
LIBRA_INLINE FloatVec broadcast(float x) { return x - FloatVec{}; }
LIBRA_INLINE IntVec broadcast(int32_t x) { return x - IntVec{}; }

// As in box_math.h: a NaN in `a` gives `b`.
LIBRA_INLINE FloatVec min_of(const FloatVec& a, const FloatVec& b) { return a < b ? a : b; }
LIBRA_INLINE FloatVec max_of(const FloatVec& a, const FloatVec& b) { return a > b ? a : b; }

struct BoxVec {
  FloatVec x1, y1, x2, y2, area;
};

LIBRA_INLINE BoxVec load_boxes(const BoxTile& tile, int64_t i) {
  return {load(tile.x1 + i), load(tile.y1 + i), load(tile.x2 + i), load(tile.y2 + i), load(tile.area + i)};
}

LIBRA_INLINE BoxVec broadcast_gt(const GroundTruths& gts, int64_t g) {
  return {broadcast(gts.x1[g]), broadcast(gts.y1[g]), broadcast(gts.x2[g]), broadcast(gts.y2[g]),
          broadcast(gts.area[g])};
}

// iou_of of box_math.h, operation for operation.
LIBRA_INLINE FloatVec iou_of(const BoxVec& gt, const BoxVec& box) {
  const FloatVec zero = {};
  const FloatVec w = max_of(min_of(gt.x2, box.x2) - max_of(gt.x1, box.x1), zero);
  const FloatVec h = max_of(min_of(gt.y2, box.y2) - max_of(gt.y1, box.y1), zero);
  const FloatVec inter = w * h;
  return max_of(inter / ((gt.area + box.area) - inter), zero);
}

inline void load_tile(const float* boxes, int64_t count, BoxTile* tile) {
  tile->count = count;
#pragma GCC unroll 1
  for (int64_t i = 0; i < count; ++i) {
    const Box box = sanitized(load_box(boxes + 4 * i));
    tile->x1[i] = box.x1;
    tile->y1[i] = box.y1;
    tile->x2[i] = box.x2;
    tile->y2[i] = box.y2;
    tile->area[i] = area_of(box);
  }
  for (int64_t i = count; i % kLanes != 0; ++i) {
    tile->x1[i] = tile->y1[i] = tile->x2[i] = tile->y2[i] = tile->area[i] = 0.f;
  }
  FloatVec low_x = broadcast(kHuge), low_y = low_x, high_x = -low_x, high_y = high_x;
#pragma GCC unroll 1
  for (int64_t i = 0; i < count; i += kWidth) {
    const BoxVec box = load_boxes(*tile, i);
    const IntVec counts = (box.x1 < box.x2) & (box.y1 < box.y2);
    low_x = min_of(counts ? box.x1 : low_x, low_x);
    low_y = min_of(counts ? box.y1 : low_y, low_y);
    high_x = max_of(counts ? box.x2 : high_x, high_x);
    high_y = max_of(counts ? box.y2 : high_y, high_y);
  }
  Box bounds = {kHuge, kHuge, -kHuge, -kHuge};
  for (int64_t l = 0; l < kWidth; ++l) {
    bounds.x1 = libra_d2::min_of(low_x[l], bounds.x1);
    bounds.y1 = libra_d2::min_of(low_y[l], bounds.y1);
    bounds.x2 = libra_d2::max_of(high_x[l], bounds.x2);
    bounds.y2 = libra_d2::max_of(high_y[l], bounds.y2);
  }
  tile->bounds = bounds;
}

inline int64_t select_ground_truths(const BoxTile& tile, const GroundTruths& gts, const float* best, float reach,
                                    int32_t* selected) {
  const Box b = tile.bounds;
  int64_t count = 0;
  for (int64_t g = 0; g < gts.count; ++g) {
    // No branch: which ground truths overlap a tile is hard to predict.
    selected[count] = static_cast<int32_t>(g);
    bool keep = (gts.x1[g] < b.x2) & (gts.x2[g] > b.x1) & (gts.y1[g] < b.y2) & (gts.y2[g] > b.y1);
    if (best) keep &= (best[g] > 0.f) & (best[g] <= reach);
    count += keep;
  }
  return count;
}

template <int kCount, bool kColumnMax>
LIBRA_INLINE void match_group(const BoxTile& tile, const GroundTruths& gts, const int32_t* selected, TileMatch* match,
                              float* column_max) {
  BoxVec gt[kCount];
  IntVec number[kCount];
  FloatVec highest[kCount];
#pragma GCC unroll 4
  for (int k = 0; k < kCount; ++k) {
    gt[k] = broadcast_gt(gts, selected[k]);
    number[k] = broadcast(selected[k]);
    if (kColumnMax) highest[k] = load(column_max + selected[k] * kLanes);
  }
#pragma GCC unroll 1
  for (int64_t i = 0; i < tile.count; i += kWidth) {
    const BoxVec box = load_boxes(tile, i);
    FloatVec best = load(match->iou + i);
    IntVec index = load(match->index + i);
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) {
      const FloatVec iou = iou_of(gt[k], box);
      const IntVec better = iou > best;
      best = max_of(iou, best);
      index = better ? number[k] : index;
      if (kColumnMax) highest[k] = max_of(iou, highest[k]);
    }
    store(match->iou + i, best);
    store(match->index + i, index);
  }
  if (!kColumnMax) return;
#pragma GCC unroll 4
  for (int k = 0; k < kCount; ++k) store(column_max + selected[k] * kLanes, highest[k]);
}

template <bool kColumnMax>
void match_selected(const BoxTile& tile, const GroundTruths& gts, const int32_t* selected, int64_t num_selected,
                    TileMatch* match, float* column_max) {
  int64_t s = 0;
  for (; s + kGroup <= num_selected; s += kGroup) {
    match_group<kGroup, kColumnMax>(tile, gts, selected + s, match, column_max);
  }
  for (; s < num_selected; ++s) {
    match_group<1, kColumnMax>(tile, gts, selected + s, match, column_max);
  }
}

inline void match_tile(const BoxTile& tile, const GroundTruths& gts, const int32_t* selected, int64_t num_selected,
                       TileMatch* match, float* column_max) {
#pragma GCC unroll 1
  for (int64_t i = 0; i < tile.count; i += kWidth) {
    store(match->iou + i, FloatVec{});
    store(match->index + i, IntVec{});
  }
  if (column_max) {
    match_selected<true>(tile, gts, selected, num_selected, match, column_max);
  } else {
    match_selected<false>(tile, gts, selected, num_selected, match, nullptr);
  }
}

LIBRA_INLINE float highest_lane(const FloatVec& v) {
  float highest = v[0];
  for (int64_t l = 1; l < kWidth; ++l) highest = libra_d2::max_of(v[l], highest);
  return highest;
}

inline float store_match(const TileMatch& match, int64_t count, const LabelRule& rule, int64_t* index, float* iou,
                         int8_t* label) {
  alignas(64) int32_t wide[kTile];
  FloatVec highest = {};
#pragma GCC unroll 1
  for (int64_t i = 0; i < count; i += kWidth) {
    const FloatVec best = load(match.iou + i);
    highest = max_of(best, highest);
    IntVec value = broadcast(int32_t{rule.labels[0]});
    for (int k = 0; k < rule.num_thresholds; ++k) {
      value = best >= broadcast(rule.thresholds[k]) ? broadcast(int32_t{rule.labels[k + 1]}) : value;
    }
    store(wide + i, value);
  }
  for (int64_t i = 0; i < count; ++i) index[i] = match.index[i];
  for (int64_t i = 0; i < count; ++i) iou[i] = match.iou[i];
  for (int64_t i = 0; i < count; ++i) label[i] = static_cast<int8_t>(wide[i]);
  return highest_lane(highest);
}

inline void label_ties(const BoxTile& tile, const GroundTruths& gts, const int32_t* selected, int64_t num_selected,
                       const float* best, const float* matched_iou, int8_t* label) {
  for (int64_t i = 0; i < tile.count; i += kWidth) {
    const int64_t rows = tile.count - i < kWidth ? tile.count - i : kWidth;
    float reach = 0.f;
    for (int64_t l = 0; l < rows; ++l) reach = libra_d2::max_of(matched_iou[i + l], reach);
    const BoxVec box = load_boxes(tile, i);
    IntVec tied = {};
    bool evaluated = false;
    for (int64_t s = 0; s < num_selected; ++s) {
      const float highest = best[selected[s]];
      if (highest > reach) continue;  // none of these boxes gets that far with any ground truth
      tied |= iou_of(broadcast_gt(gts, selected[s]), box) == broadcast(highest);
      evaluated = true;
    }
    if (!evaluated) continue;
    for (int64_t l = 0; l < rows; ++l) label[i + l] = tied[l] ? 1 : label[i + l];
  }
}

inline void find_bins(const IouBins& bins, const float* iou, int64_t count, int32_t* bin) {
  constexpr int64_t kFew = 16;
  if (bins.count > kFew) {
    for (int64_t i = 0; i < count; ++i) bin[i] = static_cast<int32_t>(bins.bin_of(clean_iou(iou[i])));
    return;
  }
  float edge[kFew + 1] = {};
  for (int64_t k = 0; k <= bins.count; ++k) edge[k] = bins.edge(k);
  const float top = bins.closed ? bins.hi : edge[bins.count];
  for (int64_t i = 0; i < count; ++i) bin[i] = 0;
  for (int64_t k = 1; k < bins.count; ++k) {
    for (int64_t i = 0; i < count; ++i) bin[i] += clean_iou(iou[i]) >= edge[k];
  }
  for (int64_t i = 0; i < count; ++i) {
    const float value = clean_iou(iou[i]);
    const bool in_bins = (value >= edge[0]) & ((value < top) | (bins.closed & (value == top)));
    bin[i] = in_bins ? bin[i] : -1;
  }
}

inline void iou_row(const Box& box, const GroundTruths& gts, float* iou) {
  const float area = area_of(box);
  for (int64_t g = 0; g < gts.count; ++g) {
    const Box gt = {gts.x1[g], gts.y1[g], gts.x2[g], gts.y2[g]};
    iou[g] = libra_d2::iou_of(gt, gts.area[g], box, area);
  }
}

inline void draw_box_keys(int64_t seed, int64_t image, const int32_t* index, int64_t count, uint32_t* x, uint32_t* y,
                          uint32_t* z) {
  for (int64_t i = 0; i < count; ++i) {
    const Words4 words = draw_keys(seed, index[i], image, Domain::kBox);
    x[i] = words.x;
    y[i] = words.y;
    z[i] = words.z;
  }
}

constexpr VectorKernels kKernels = {load_tile, select_ground_truths, match_tile, store_match, label_ties, find_bins,
                                    iou_row,   draw_box_keys};

#undef LIBRA_INLINE
