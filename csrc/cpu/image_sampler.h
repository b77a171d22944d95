// Draws the boxes of one image, step by step as docs/sampling.md says. Keys are drawn for the boxes
// that compete and for no others.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "vector_kernels.h"

namespace libra_d2::cpu {

enum class Key { kFirst, kRefill, kTopUp };

// One image's rows.
struct Image {
  const int8_t* labels;
  const float* ious;
  const int64_t* matched_idx;
  int64_t rows;
  int64_t number;
};

class ImageSampler {
 public:
  ImageSampler(const SampleRule& rule, int64_t seed) : rule_(rule), seed_(seed) {}

  // Writes num_samples indices, of which -1 where nothing is left, and both counts.
  void sample(const Image& image, int64_t* indices, int64_t* num_positive, int64_t* num_negative) {
    image_ = image;
    taken_.assign((image.rows + 63) / 64, 0);
    split_by_label();
    *num_positive = rule_.instance_balanced ? take_instance_balanced(rule_.max_positives)
                                            : take_smallest(positives_, Key::kFirst, rule_.max_positives);
    const int64_t wanted = rule_.wanted_negatives(static_cast<uint32_t>(*num_positive));
    *num_negative = rule_.iou_balanced && static_cast<int64_t>(negatives_.size()) > wanted
                        ? take_iou_balanced(wanted)
                        : take_smallest(negatives_, Key::kFirst, wanted);
    write_taken(indices, *num_positive, *num_negative);
  }

 private:
  using Rows = std::vector<int32_t>;

  void split_by_label() {
    positives_.resize(image_.rows + 1);
    negatives_.resize(image_.rows + 1);
    int64_t num_positive = 0, num_negative = 0;
    for (int64_t i = 0; i < image_.rows; ++i) {
      positives_[num_positive] = negatives_[num_negative] = static_cast<int32_t>(i);
      num_positive += image_.labels[i] > 0;
      num_negative += image_.labels[i] == 0;
    }
    positives_.resize(num_positive);
    negatives_.resize(num_negative);
  }

  bool is_taken(int32_t row) const { return taken_[row >> 6] >> (row & 63) & 1; }
  void take(int32_t row) { taken_[row >> 6] |= uint64_t{1} << (row & 63); }

  // Takes the `quota` rows with the smallest keys, or all; returns how many.
  int64_t take_smallest(const Rows& rows, Key key, int64_t quota) {
    return take_smallest(rows.data(), static_cast<int64_t>(rows.size()), key, quota);
  }

  int64_t take_smallest(const int32_t* rows, int64_t count, Key key, int64_t quota) {
    if (quota <= 0) return 0;
    if (count <= quota) {
      for (int64_t i = 0; i < count; ++i) take(rows[i]);
      return count;
    }
    // Of many rows few have a key so small that they can be among the quota; if those turn out to
    // be too few, which hardly ever happens, every row competes.
    const double expected = static_cast<double>(quota) + 8 * std::sqrt(quota) + 32;
    const double limit = expected / static_cast<double>(count) * 4294967296.0;
    gather_keys(rows, count, key, limit < 4294967296.0 ? static_cast<uint64_t>(limit) : UINT64_MAX);
    if (static_cast<int64_t>(keys_.size()) < quota) gather_keys(rows, count, key, UINT64_MAX);
    std::nth_element(keys_.begin(), keys_.begin() + (quota - 1), keys_.end());
    for (int64_t i = 0; i < quota; ++i) take(static_cast<int32_t>(keys_[i] & 0xFFFFFFFFu));
    return quota;
  }

  // keys_ = (key, row) of the rows with a key below the limit.
  void gather_keys(const int32_t* rows, int64_t count, Key key, uint64_t limit) {
    constexpr int64_t kBlock = 512;
    alignas(64) uint32_t words[3][kBlock];
    const uint32_t* word = words[static_cast<int>(key)];
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += kBlock) {
      const int64_t size = std::min(kBlock, count - start);
      kernels_.draw_box_keys(seed_, image_.number, rows + start, size, words[0], words[1], words[2]);
      keys_.resize(found + size);
      for (int64_t i = 0; i < size; ++i) {
        keys_[found] = uint64_t{word[i]} << 32 | static_cast<uint32_t>(rows[start + i]);
        found += word[i] < limit;
      }
    }
    keys_.resize(found);
  }

  int64_t take_instance_balanced(int64_t most) {
    const int64_t count = static_cast<int64_t>(positives_.size());
    if (count <= most || most == 0) return take_smallest(positives_, Key::kFirst, most);
    group_positives_by_gt();
    const int64_t groups = static_cast<int64_t>(group_begin_.size()) - 1;
    const auto size_of = [&](int64_t g) { return group_begin_[g + 1] - group_begin_[g]; };
    const auto taken_at = [&](int64_t level) {
      int64_t sum = 0;
      for (int64_t g = 0; g < groups; ++g) sum += std::min(size_of(g), level);
      return sum;
    };
    int64_t level = 0;  // the largest that takes no more than `most`
    for (int64_t above = most + 1; above - level > 1;) {
      const int64_t middle = level + (above - level) / 2;
      (taken_at(middle) <= most ? level : above) = middle;
    }
    // One more each from the ground truths with the smallest keys.
    std::vector<int64_t> quota(groups, level);
    const int64_t spare = most - taken_at(level);
    if (spare > 0) {
      std::vector<std::pair<uint32_t, int64_t>> larger;
      for (int64_t g = 0; g < groups; ++g) {
        if (size_of(g) <= level) continue;
        const Words4 words = draw_keys(seed_, group_gt_[g], image_.number, Domain::kGroundTruth);
        larger.emplace_back(words.x, g);
      }
      std::nth_element(larger.begin(), larger.begin() + (spare - 1), larger.end());
      for (int64_t i = 0; i < spare; ++i) ++quota[larger[i].second];
    }
    for (int64_t g = 0; g < groups; ++g) {
      take_smallest(grouped_.data() + group_begin_[g], size_of(g), Key::kFirst, quota[g]);
    }
    return most;
  }

  // grouped_: the positives by ascending ground truth, rows ascending inside; group_begin_: where
  // each starts; group_gt_: whose it is. A group may be empty.
  void group_positives_by_gt() {
    const auto gt_of = [&](int32_t row) {
      return static_cast<int64_t>(static_cast<uint32_t>(image_.matched_idx[row]));
    };
    const auto [low, high] = std::minmax_element(positives_.begin(), positives_.end(),
                                                 [&](int32_t a, int32_t b) { return gt_of(a) < gt_of(b); });
    const int64_t first = gt_of(*low), last = gt_of(*high);
    group_gt_.clear();
    if (last - first < 4 * static_cast<int64_t>(positives_.size())) {
      for (int64_t g = first; g <= last; ++g) group_gt_.push_back(g);
      sort_by_bucket(positives_, static_cast<int64_t>(group_gt_.size()),
                     [&](int32_t row) { return gt_of(row) - first; });
      return;
    }
    // Few positives for so many ground truths; or no index of one, but whatever the caller passed.
    std::vector<std::pair<int64_t, int32_t>> by_gt;
    for (int32_t row : positives_) by_gt.emplace_back(gt_of(row), row);
    std::sort(by_gt.begin(), by_gt.end());
    grouped_.clear();
    group_begin_.clear();
    for (const auto& [gt, row] : by_gt) {
      if (group_gt_.empty() || group_gt_.back() != gt) {
        group_gt_.push_back(gt);
        group_begin_.push_back(static_cast<int64_t>(grouped_.size()));
      }
      grouped_.push_back(row);
    }
    group_begin_.push_back(static_cast<int64_t>(grouped_.size()));
  }

  // A stable counting sort of rows into grouped_ and group_begin_.
  template <class F>
  void sort_by_bucket(const Rows& rows, int64_t buckets, const F& bucket_of) {
    group_begin_.assign(buckets + 1, 0);
    bucket_.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      bucket_[i] = static_cast<int32_t>(bucket_of(rows[i]));
      ++group_begin_[bucket_[i] + 1];
    }
    for (int64_t b = 0; b < buckets; ++b) group_begin_[b + 1] += group_begin_[b];
    next_.assign(group_begin_.begin(), group_begin_.end() - 1);
    grouped_.resize(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) grouped_[next_[bucket_[i]]++] = rows[i];
  }

  int64_t take_iou_balanced(int64_t wanted) {
    Rows& binned = balanced_;
    binned.clear();
    floor_.clear();
    if (rule_.floor_thr < 0) {
      binned = negatives_;
    } else {
      for (int32_t row : negatives_) {
        (rule_.is_floor(iou_of_row(row)) ? floor_ : binned).push_back(row);
      }
    }
    const int64_t share = rule_.share_of(static_cast<uint32_t>(wanted));
    int64_t taken;
    if (static_cast<int64_t>(binned.size()) <= share) {
      taken = take_smallest(binned, Key::kFirst, share);
    } else {
      const IouBins bins = rule_.bins(upper_edge());
      const int32_t in_no_bin = static_cast<int32_t>(rule_.num_bins);
      bin_.resize(image_.rows);
      kernels_.find_bins(bins, image_.ious, image_.rows, bin_.data());
      sort_by_bucket(binned, rule_.num_bins + 1, [&](int32_t row) { return bin_[row] < 0 ? in_no_bin : bin_[row]; });
      taken = 0;
      for (int64_t k = 0; k < rule_.num_bins; ++k) {
        taken += take_smallest(grouped_.data() + group_begin_[k], group_begin_[k + 1] - group_begin_[k], Key::kFirst,
                               share / rule_.num_bins);
      }
      taken += take_smallest(left_of(binned), Key::kRefill, share - taken);
    }
    taken += take_smallest(floor_, Key::kFirst, wanted - taken);
    if (taken < wanted) taken += take_smallest(left_of(binned), Key::kTopUp, wanted - taken);
    return taken;
  }

  float iou_of_row(int64_t row) const { return clean_iou(image_.ious[row]); }

  float upper_edge() const {
    if (rule_.upper_kind == BinUpper::kValue) return rule_.bin_upper;
    float upper = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < image_.rows; ++i) {
      const bool counts = rule_.upper_kind == BinUpper::kMaxAll || image_.labels[i] == 0;
      if (counts) upper = max_of(iou_of_row(i), upper);
    }
    return upper;
  }

  const Rows& left_of(const Rows& rows) {
    left_.clear();
    for (int32_t row : rows) {
      if (!is_taken(row)) left_.push_back(row);
    }
    return left_;
  }

  void write_taken(int64_t* indices, int64_t num_positive, int64_t num_negative) const {
    int64_t* next[2] = {indices + num_positive, indices};  // negatives, positives
    for (size_t w = 0; w < taken_.size(); ++w) {
      for (uint64_t bits = taken_[w]; bits != 0; bits &= bits - 1) {
        const int64_t row = static_cast<int64_t>(w) * 64 + __builtin_ctzll(bits);
        *next[image_.labels[row] > 0]++ = row;
      }
    }
    std::fill(indices + num_positive + num_negative, indices + rule_.num_samples, -1);
  }

  const SampleRule& rule_;
  const int64_t seed_;
  const VectorKernels& kernels_ = best_vector_kernels();
  Image image_{};
  std::vector<uint64_t> taken_;  // a bit for each row
  Rows positives_, negatives_, balanced_, floor_, left_, grouped_, bucket_, bin_;
  std::vector<int64_t> group_begin_, group_gt_, next_;
  std::vector<uint64_t> keys_;
};

}  // namespace libra_d2::cpu
