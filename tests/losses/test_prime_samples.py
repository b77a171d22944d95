"""The weights of prime samples, beside an oracle that ranks box by box."""

import pytest
import torch

from libra_d2.losses import prime_sample_weights


def oracle(ious, objects, classes, losses, gamma, beta):
    most = max(classes.tolist().count(c) for c in classes.tolist())
    weights = torch.zeros_like(ious)
    for c in set(classes.tolist()):
        rows = [r for r in range(len(ious)) if classes[r] == c]
        rank_in_object = {
            r: sum(objects[s] == objects[r] and (-ious[s], s) < (-ious[r], r) for s in rows) for r in rows
        }
        for rank, r in enumerate(sorted(rows, key=lambda r: (rank_in_object[r], -ious[r], r))):
            weights[r] = (beta + (1 - beta) * (most - rank) / most) ** gamma
    return weights * losses.sum() / (weights * losses).sum()


@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 0.0), (1.0, 0.2), (0.0, 0.0)])
def test_equals_the_oracle(gamma, beta):
    generator = torch.Generator().manual_seed(0)
    objects = torch.randint(0, 9, (60,), generator=generator)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])[objects]
    ious = torch.rand(60, generator=generator).mul(10).round() / 10  # with ties
    losses = torch.rand(60, generator=generator)
    weights = prime_sample_weights(ious, objects, classes, losses, gamma=gamma, beta=beta)
    torch.testing.assert_close(weights, oracle(ious, objects, classes, losses, gamma, beta))


def test_the_best_box_of_each_object_comes_before_the_second_best_of_any():
    ious, objects = torch.tensor([0.9, 0.8, 0.6, 0.5]), torch.tensor([7, 7, 3, 3])
    weights = prime_sample_weights(ious, objects, torch.zeros(4, dtype=torch.int64), torch.ones(4), gamma=1)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5, 0.75, 0.25]) * 4 / 2.5)


def test_without_positives_or_losses_there_is_nothing_to_weigh():
    nothing, no_rows = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert prime_sample_weights(nothing, no_rows, no_rows, nothing).shape == (0,)
    one = torch.zeros(1, dtype=torch.int64)
    assert prime_sample_weights(torch.ones(1), one, one, torch.zeros(1)).isfinite().all()
