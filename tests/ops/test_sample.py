"""bucketed_sample against docs/sampling.md, followed by hand and by the oracle, and its statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libra_d2 import ops
from libra_d2.ops._reference import philox
from tests.ops.backends import BACKENDS, using
from tests.ops.ragged_batches import pack, strided
from tests.oracles.sampling import philox4x32_10, sample_image

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, result):
    counter, key, result = ([int(word, 16) for word in words.split()] for words in (counter, key, result))
    assert list(philox4x32_10(counter, key)) == result
    words = philox.philox4x32(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert [int(word) for word in words] == result


_IOU = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1 / 3, 1 / 6, 0.05, 1.0, float("nan")]), st.floats(0, 1, width=32)
)
_ROW = st.tuples(st.sampled_from([-1, 0, 0, 0, 0, 0, 1, 1, 1, 2]), _IOU, st.sampled_from([0, 0, 1, 2, 3, 2**32, -1]))


@st.composite
def sampling_options(draw):
    floor_thr = draw(st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.25, 0.05]))
    return {
        "num_samples": draw(st.integers(1, 14)),
        "positive_fraction": draw(st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0])),
        "positive": draw(st.sampled_from(["instance_balanced", "random"])),
        "negative": draw(st.sampled_from(["iou_balanced", "iou_balanced", "random"])),
        "num_bins": draw(st.sampled_from([1, 2, 3, 3, 5, 20])),
        "bin_upper": draw(st.sampled_from([0.5, 0.3, 1.0, "max_all", "max_neg"])),
        "floor_thr": floor_thr,
        "floor_fraction": draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        "neg_pos_ub": draw(st.sampled_from([-1.0, 0.0, 0.7, 1.0, 3.0, 1e300])),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=300)
@given(
    batch=st.lists(st.lists(_ROW, max_size=30), max_size=3),
    options=sampling_options(),
    seed=st.integers(-(2**63), 2**63 - 1),
    with_gaps=st.booleans(),
)
@example(batch=[[]], options={"num_samples": 3, "positive_fraction": 0.5}, seed=0, with_gaps=False)
def test_bucketed_sample_equals_oracle(backend, batch, options, seed, with_gaps):
    labels, offsets = pack([torch.tensor([r[0] for r in rows]).char() for rows in batch], torch.empty(0).char())
    ious = torch.tensor([row[1] for rows in batch for row in rows], dtype=torch.float32)
    matched_idx = torch.tensor([row[2] for rows in batch for row in rows], dtype=torch.int64)
    tensors = [labels, ious, matched_idx, offsets]
    if with_gaps:
        tensors = [strided(tensor) for tensor in tensors]
    with using(backend):
        indices, num_positive, num_negative = ops.bucketed_sample(*tensors, **options, seed=torch.tensor(seed))
    assert indices.shape == (len(batch), options["num_samples"])
    assert indices.dtype == num_positive.dtype == num_negative.dtype == torch.int64
    for n, rows in enumerate(batch):
        positives, negatives = sample_image(
            [row[0] for row in rows],
            np.array([row[1] for row in rows], dtype=np.float32),
            [row[2] for row in rows],
            n,
            seed,
            **options,
        )
        rest = options["num_samples"] - len(positives) - len(negatives)
        assert indices[n].tolist() == positives + negatives + [-1] * rest
        assert (num_positive[n].item(), num_negative[n].item()) == (len(positives), len(negatives))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("upper", "top_is_in_a_bin"), [(0.5, True), ("max_neg", True), ("max_all", False)])
def test_iou_at_the_upper_edge(backend, upper, top_is_in_a_bin):
    # Two from each third of [0, 0.5]: the box at 0.5 is alone at the top, if it is in the top bin at all.
    with using(backend):
        indices, *_ = ops.bucketed_sample(
            *repeat_image([0] * 60, [0.01] * 59 + [0.5], [0] * 60, 300), 6, 0.25, bin_upper=upper, seed=torch.tensor(2)
        )
    drawn = (indices == 59).any(dim=1).sum().item()
    assert drawn == 300 if top_is_in_a_bin else drawn < 60


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("upper", "hard_is_alone"), [("max_neg", True), ("max_all", False)])
def test_upper_edge_by_negatives_or_by_all(backend, upper, hard_is_alone):
    # Thirds of [0, 0.25], the highest negative, leave the hardest one alone; thirds of [0, 0.9] do not.
    image = repeat_image([0] * 60 + [1], [0.05] * 59 + [0.25, 0.9], [0] * 61, 300)
    with using(backend):
        indices, *_ = ops.bucketed_sample(*image, 7, 0.25, bin_upper=upper, seed=torch.tensor(2))
    drawn = (indices == 59).any(dim=1).sum().item()
    assert drawn == 300 if hard_is_alone else drawn < 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_shares_are_products_of_doubles(backend):
    # 10 * (1 - 0.9) is just below 1 in double and 1 in float32; 100 * 0.29 and 100 * 0.57 are just below the integer.
    ious = [0.0] * 40 + [0.2] * 40
    with using(backend):
        indices, *_ = ops.bucketed_sample(
            *repeat_image([0] * 80, ious, [0] * 80, 1), 10, 0.0, floor_thr=0.1, floor_fraction=0.9, seed=torch.tensor(0)
        )
        _, num_positive, num_negative = ops.bucketed_sample(
            *repeat_image([1] * 100 + [0] * 100, [0.5] * 200, [0] * 200, 1), 100, 0.29, neg_pos_ub=0.57
        )
        _, _, bounded = ops.bucketed_sample(
            *repeat_image([1] * 100 + [0] * 100, [0.5] * 200, [0] * 200, 1), 200, 0.5, neg_pos_ub=0.57
        )
    assert (indices < 40).all()
    assert (num_positive.item(), num_negative.item(), bounded.item()) == (28, 15, 56)


def repeat_image(labels, ious, matched_idx, times):
    """The same image many times: the image's position gives every copy its own draw."""
    rows = len(labels)
    return (
        torch.tensor(labels, dtype=torch.int8).repeat(times),
        torch.tensor(ious, dtype=torch.float32).repeat(times),
        torch.tensor(matched_idx, dtype=torch.int64).repeat(times),
        torch.arange(times + 1) * rows,
    )


def assert_frequency(indices, rows, probability):
    """Every one of ``rows`` is drawn with this probability: within five standard deviations."""
    times = len(indices)
    drawn = torch.stack([(indices == row).any(dim=1) for row in rows], dim=1).sum(dim=0)
    deviation = math.sqrt(times * probability * (1 - probability))
    assert (drawn - times * probability).abs().max() <= 5 * deviation


@pytest.mark.parametrize("backend", BACKENDS)
def test_bins_and_refill_draw_uniformly(backend):
    # 36 in the lowest bin, 12 in the middle, 2 at the top; 12 wanted: 4 + 4 + 2, and 2 more from the 40 left.
    ious = [0.01] * 36 + [0.25] * 12 + [0.45] * 2
    with using(backend):
        indices, _, num_negative = ops.bucketed_sample(
            *repeat_image([0] * 50, ious, [0] * 50, 4000), 12, 0.25, seed=torch.tensor(5)
        )
    assert num_negative.unique().tolist() == [12]
    refill = 2 / (50 - 10)
    assert_frequency(indices, range(36), 4 / 36 + (1 - 4 / 36) * refill)
    assert_frequency(indices, range(36, 48), 4 / 12 + (1 - 4 / 12) * refill)
    assert_frequency(indices, range(48, 50), 1 - 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_instance_balanced_positives_are_uniform_within_and_among_instances(backend):
    # 30, 5, 5 and 1 positives; 10 wanted: level 3 gives 3 + 3 + 3 + 1 and nothing is left over; 11 leave one over.
    matched_idx = [0] * 30 + [1] * 5 + [2] * 5 + [3]
    for wanted, spare in ((10, 0), (11, 1 / 3)):
        with using(backend):
            indices, num_positive, _ = ops.bucketed_sample(
                *repeat_image([1] * 41, [0.8] * 41, matched_idx, 3000), wanted, 1.0, seed=torch.tensor(9)
            )
        assert num_positive.unique().tolist() == [wanted]
        assert_frequency(indices, range(30), (3 + spare) / 30)
        assert_frequency(indices, range(30, 40), (3 + spare) / 5)
        assert_frequency(indices, [40], 1 - 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bucketed_sample_ignores_the_other_images(backend):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 2, (60,), generator=generator).char()
    ious, matched_idx = torch.rand(60, generator=generator), torch.randint(0, 4, (60,), generator=generator)
    seed = torch.tensor(77)
    with using(backend):
        together, *_ = ops.bucketed_sample(labels, ious, matched_idx, torch.tensor([0, 25, 60]), 16, 0.25, seed=seed)
        alone, *_ = ops.bucketed_sample(
            labels[25:], ious[25:], matched_idx[25:], torch.tensor([0, 0, 35]), 16, 0.25, seed=seed
        )
    assert together[1].tolist() == alone[1].tolist()
    assert together[0].tolist() != alone[1].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_manual_seed_governs_bucketed_sample(backend):
    args = repeat_image([0] * 40, [i / 100 for i in range(40)], [0] * 40, 2)

    def draw(seed):
        torch.manual_seed(seed)
        return ops.bucketed_sample(*args, 8, 0.25)[0].tolist()

    with using(backend):
        assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_iou_balanced_takes_hard_negatives_where_random_does_not(backend):
    # A thousand easy negatives and thirty hard ones: the paper's figure 3 in small.
    image = repeat_image([0] * 1030, [0.01] * 1000 + [0.3] * 30, [0] * 1030, 20)
    with using(backend):
        balanced, *_ = ops.bucketed_sample(*image, 60, 0.25, seed=torch.tensor(1))
        random, *_ = ops.bucketed_sample(*image, 60, 0.25, negative="random", seed=torch.tensor(1))
    assert ((balanced >= 1000).sum(dim=1) >= 20).all()
    assert (random >= 1000).float().sum(dim=1).mean() < 5
