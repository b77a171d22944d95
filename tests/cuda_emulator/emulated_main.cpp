// Runs every kernel on made-up inputs in all thread orders, for the sanitizers to watch; prints a
// hash of the outputs of each case and fails where the order changes it.
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "emulated_ops.h"

// Without this, libstdc++'s containers would not see that the boxes have to be aligned.
struct alignas(16) AlignedBox {
  float v[4];
};

class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i) {
      state_ = (state_ ^ bytes[i]) * 0x100000001b3ull;
    }
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0xcbf29ce484222325ull;
};

using Offsets = std::vector<int64_t>;

std::vector<AlignedBox> make_boxes(std::mt19937& random, int64_t count) {
  std::uniform_real_distribution<float> place(0.f, 60.f), size(-1.f, 30.f);
  std::vector<AlignedBox> boxes(count);
  for (AlignedBox& b : boxes) {
    const float x = std::floor(place(random)), y = std::floor(place(random));
    b = AlignedBox{{x, y, x + std::floor(size(random)), y + std::floor(size(random))}};
    if (random() % 50 == 0) b.v[random() % 4] = std::numeric_limits<float>::quiet_NaN();
  }
  return boxes;
}

const float* data(const std::vector<AlignedBox>& boxes) { return reinterpret_cast<const float*>(boxes.data()); }

uint64_t match(const Offsets* box_offsets, const Offsets& gt_offsets, int64_t rows, int64_t num_gt) {
  std::mt19937 random(3);
  const int64_t images = gt_offsets.size() - 1;
  const auto boxes = make_boxes(random, rows), gts = make_boxes(random, num_gt);
  const int64_t outputs = box_offsets ? rows : rows * images;
  std::vector<int64_t> idx(outputs);
  std::vector<float> iou(outputs);
  std::vector<int8_t> label(outputs);
  const double thresholds[] = {0.3, 0.7};
  const int64_t labels[] = {0, -1, 1};
  emulated_match(data(boxes), data(gts), box_offsets ? box_offsets->data() : nullptr, gt_offsets.data(), images, rows,
                 num_gt, thresholds, 2, labels, 3, 1, idx.data(), iou.data(), label.data());
  Hash hash;
  hash.add(idx);
  hash.add(iou);
  hash.add(label);
  return hash.value();
}

uint64_t batched_iou(const Offsets& box_offsets, const Offsets& gt_offsets, int64_t rows, int64_t num_gt,
                     int64_t total) {
  std::mt19937 random(4);
  const auto boxes = make_boxes(random, rows), gts = make_boxes(random, num_gt);
  std::vector<float> ious(total);
  emulated_iou(data(boxes), data(gts), box_offsets.data(), gt_offsets.data(), box_offsets.size() - 1, rows, num_gt,
               ious.data(), total);
  Hash hash;
  hash.add(ious);
  return hash.value();
}

struct Sampling {
  bool by_iou, swept;
  int list_slack;
  int64_t num_samples;
};

uint64_t sample(const Offsets& offsets, int64_t rows, const Sampling& s) {
  std::mt19937 random(5);
  const int64_t images = offsets.size() - 1;
  std::vector<int8_t> labels(rows);
  std::vector<float> ious(rows);
  std::vector<int64_t> matched(rows), indices(images * s.num_samples), positive(images), negative(images);
  for (int64_t i = 0; i < rows; ++i) {
    labels[i] = random() % 4 == 0 ? 1 : random() % 16 == 0 ? -1 : 0;
    ious[i] = random() % 3 ? static_cast<float>(random() % 1000) / 2000.f : 0.f;
    matched[i] = random() % 7;
  }
  emulated_sample(labels.data(), ious.data(), matched.data(), offsets.data(), images, rows,
                  /*seed=*/-12345, s.num_samples, /*positive_fraction=*/0.25, s.by_iou ? "instance_balanced" : "random",
                  s.by_iou ? "iou_balanced" : "random",
                  /*num_bins=*/3, s.swept ? "max_all" : "value", /*bin_upper_value=*/0.5,
                  /*floor_thr=*/s.by_iou ? 0.0 : -1.0, /*floor_fraction=*/0.25, /*neg_pos_ub=*/-1.0, s.swept,
                  s.list_slack, /*threads=*/64, indices.data(), positive.data(), negative.data());
  Hash hash;
  hash.add(indices);
  hash.add(positive);
  hash.add(negative);
  return hash.value();
}

bool agree(const std::string& name, const std::function<uint64_t()>& run) {
  uint64_t first = 0;
  bool equal = true;
  for (int order = 0; order < 3; ++order) {
    emulated_options(order, 11, order == 2);
    const uint64_t hash = run();
    if (order == 0) first = hash;
    equal &= hash == first;
  }
  printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(first));
  if (!equal) fprintf(stderr, "%s: the output depends on the order of the threads\n", name.c_str());
  return equal;
}

int main() {
  bool good = true;
  const Offsets ragged = {0, 300, 300, 301, 530}, gts = {0, 3, 40, 40, 120};
  good &= agree("match ragged", [&] { return match(&ragged, gts, 530, 120); });
  good &= agree("match shared", [&] { return match(nullptr, gts, 300, 120); });
  good &= agree("match empty", [&] {
    const Offsets none = {0, 0};
    return match(&none, none, 0, 0) ^ match(&none, {0, 5}, 0, 5) ^ match(nullptr, none, 20, 0);
  });
  good &= agree("iou", [&] { return batched_iou(ragged, gts, 530, 120, 900 + 229 * 80); });
  for (bool by_iou : {false, true}) {
    for (const Sampling& s : {Sampling{by_iou, false, 16, 8},
                              {by_iou, false, 16, 40},
                              {by_iou, true, 0, 8},
                              {by_iou, true, -100, 40},
                              {by_iou, true, 16, 40},
                              {by_iou, true, 16, 600}}) {
      const std::string name = std::string("sample ") + (by_iou ? "by IoU" : "random") + (s.swept ? " swept" : "") +
                               " slack " + std::to_string(s.list_slack) + " of " + std::to_string(s.num_samples);
      good &= agree(name, [&] { return sample(ragged, 530, s); });
    }
  }
  // Offsets that lie: the results mean nothing, but no address may be bad.
  const int64_t most = std::numeric_limits<int64_t>::max();
  for (const Offsets& bad :
       {Offsets{0, 1000, 1000, 1000, 1000}, Offsets{-7, 20, 10, 400, most}, Offsets{most, -most, 5, -1, 530},
        Offsets{500, 400, 300, 200, 100}, Offsets{0, 530, 0, 530, 0}}) {
    emulated_options(0, 1, 0);
    match(&bad, gts, 530, 120);
    match(&ragged, bad, 530, 120);
    match(nullptr, bad, 100, 120);
    batched_iou(bad, gts, 530, 120, 900);
    batched_iou(ragged, bad, 530, 120, 900);
    for (bool by_iou : {false, true}) {
      for (bool swept : {false, true}) {
        for (int slack : {16, -100}) sample(bad, 530, Sampling{by_iou, swept, slack, 40});
      }
    }
  }
  // Rows of no image, which offsets on a device may mean: there is no second offset to be read.
  const Offsets no_image = {0};
  match(&no_image, no_image, 530, 0);
  batched_iou(no_image, no_image, 530, 0, 900);
  for (bool swept : {false, true}) sample(no_image, 530, Sampling{false, swept, 16, 40});
  return good ? 0 : 1;
}
