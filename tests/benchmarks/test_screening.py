"""The screening's designs are balanced, and its effects are those that the runs were made from."""

import itertools
import statistics

import pytest


@pytest.fixture
def screens(accuracy):
    return accuracy("screens")


@pytest.fixture
def screening(accuracy):
    return accuracy("screening")


@pytest.mark.parametrize("screen", ["screen", "second", "third", "rivals"])
@pytest.mark.parametrize("turned", [False, True])
def test_every_pair_of_factors_is_seen_at_each_combination_of_levels_equally_often(screens, screen, turned):
    runs = screens.design(screen, turned)
    for one, other in itertools.combinations(screens.SCREENS[screen], 2):
        levels = [(one in on, other in on) for on in runs]
        assert all(levels.count(pair) == 2 for pair in itertools.product((False, True), repeat=2))


def test_effects_are_differences_of_means_whatever_the_level_of_a_set(screening, screens):
    rows = [
        (block, screens.name_of("screen", on), level + 2 * ("rpn" in on) - ("pyramid" in on) + noise)
        for block, level, turned in (("easy", 60, False), ("hard", 10, True))
        for on, noise in zip(screens.design("screen", turned), (0.1, -0.2, 0.3, 0, 0.1, 0, -0.3, 0.2), strict=True)
    ]
    found = screening.effects(rows, list(screens.SCREENS["screen"]))
    for name in screens.SCREENS["screen"]:
        on, off = ([value for _, arm, value in rows if (name in arm.split("+")) == is_on] for is_on in (True, False))
        effect, error, low, high = found[name]
        assert effect == pytest.approx(statistics.mean(on) - statistics.mean(off))
        assert low < effect < high
        assert 0 < error < 0.2
    assert found["rpn"][0] == pytest.approx(2, abs=0.3)
    assert found["pyramid"][0] == pytest.approx(-1, abs=0.3)


def test_no_factor_is_mixed_up_with_two_others_once_both_designs_are_run(screening, screens):
    """In one design "balanced_l1" is the product of "rpn" and "positives"; turned round it is its opposite."""
    rows = [
        (str(turned), screens.name_of("screen", on), 5 * (("rpn" in on) == ("positives" in on)))
        for turned in (False, True)
        for on in screens.design("screen", turned)
    ]
    factors = list(screens.SCREENS["screen"])
    assert screening.effects(rows[:8], factors)["balanced_l1"][0] == pytest.approx(5)
    assert all(abs(effect) < 1e-9 for effect, *_ in screening.effects(rows, factors).values())


@pytest.mark.parametrize("screen", ["screen", "second", "third", "rivals"])
def test_the_sets_take_the_designs_in_turn(accuracy, screens, screen):
    runs = accuracy("jobs").screen_jobs("imagenet", screen=screen)
    for name, turned in (("facemask", False), ("deeppcb", True)):
        expected = {screens.name_of(screen, on) for on in screens.design(screen, turned)}
        assert {job.arm for job in runs if job.set == name} == expected
