"""docs/sampling.md, one image and one step at a time."""

import numpy as np

WORD = 0xFFFFFFFF


def philox4x32_10(counter, key):
    x, y, z, w = counter
    key0, key1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * x, 0xCD9E8D57 * z
        x, y, z, w = (second >> 32) ^ y ^ key0, second & WORD, (first >> 32) ^ w ^ key1, first & WORD
        key0, key1 = (key0 + 0x9E3779B9) & WORD, (key1 + 0xBB67AE85) & WORD
    return x, y, z, w


def sample_image(
    labels,
    ious,
    matched_idx,
    image,
    seed,
    num_samples,
    positive_fraction,
    positive="instance_balanced",
    negative="iou_balanced",
    num_bins=3,
    bin_upper=0.5,
    floor_thr=-1.0,
    floor_fraction=0.0,
    neg_pos_ub=-1.0,
):
    """The drawn positives and negatives of one image, each ascending. ``ious`` is a float32 array."""
    key = (seed & WORD, seed >> 32 & WORD)
    words = [philox4x32_10((i, image, 0, 0), key) for i in range(len(labels))]

    def smallest(candidates, word, count):
        return set(sorted(candidates, key=lambda i: (words[i][word], i))[: max(0, count)])

    positives = [i for i, label in enumerate(labels) if label > 0]
    most = int(num_samples * positive_fraction)
    if len(positives) <= most:
        taken_positives = set(positives)
    elif positive == "random":
        taken_positives = smallest(positives, 0, most)
    else:
        gt_of = [gt & WORD for gt in matched_idx]
        members = {g: [i for i in positives if gt_of[i] == g] for g in {gt_of[i] for i in positives}}
        level = 0
        while sum(min(len(own), level + 1) for own in members.values()) <= most:
            level += 1
        spare = most - sum(min(len(own), level) for own in members.values())
        larger = [g for g, own in members.items() if len(own) > level]
        larger.sort(key=lambda g: (philox4x32_10((g, image, 1, 0), key)[0], g))
        taken_positives = set()
        for g, own in members.items():
            taken_positives |= smallest(own, 0, level + (g in larger[:spare]))

    negatives = [i for i, label in enumerate(labels) if label == 0]
    wanted = num_samples - len(taken_positives)
    if neg_pos_ub >= 0:
        wanted = min(wanted, int(neg_pos_ub * max(1, len(taken_positives))))
    if len(negatives) <= wanted:
        taken_negatives = set(negatives)
    elif negative == "random":
        taken_negatives = smallest(negatives, 0, wanted)
    else:
        ious = np.where(np.isnan(ious), np.float32(0), ious)
        taken_negatives = _iou_balanced(
            negatives, ious, smallest, wanted, num_bins, bin_upper, floor_thr, floor_fraction
        )
    return sorted(taken_positives), sorted(taken_negatives)


def _iou_balanced(negatives, ious, smallest, wanted, num_bins, bin_upper, floor_thr, floor_fraction):
    if floor_thr < 0:
        floor = set()
    elif floor_thr == 0:
        floor = {i for i in negatives if ious[i] == 0}
    else:
        floor = {i for i in negatives if ious[i] < np.float32(floor_thr)}
    balanced = set(negatives) - floor
    share = int(wanted * (1 - floor_fraction))
    if len(balanced) <= share:
        taken = set(balanced)
    else:
        low = np.float32(max(floor_thr, 0))
        if bin_upper == "max_all":
            high = ious.max()
        elif bin_upper == "max_neg":
            high = max(ious[i] for i in negatives)
        else:
            high = np.float32(bin_upper)
        width = (high - low) / np.float32(num_bins)
        edges = [low + np.float32(k) * width for k in range(num_bins + 1)]
        taken = set()
        for k in range(num_bins):
            if k == num_bins - 1 and bin_upper != "max_all":
                in_bin = {i for i in balanced if edges[k] <= ious[i] <= high}
            else:
                in_bin = {i for i in balanced if edges[k] <= ious[i] < edges[k + 1]}
            taken |= smallest(in_bin, 0, share // num_bins)
        taken |= smallest(balanced - taken, 1, share - len(taken))
    taken |= smallest(floor, 0, wanted - len(taken))
    return taken | smallest(balanced - taken, 2, wanted - len(taken))
