"""docs/ablations.md, row by row: the config exists, loads, builds, and differs from its baseline as the table says."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

import libra_d2

ROOT = Path(libra_d2.__file__).parents[1]
FOLDER = ROOT / "configs" / "ablations"


def rows():
    """(config, baseline of its table, {key: value} in the last column) of every row."""
    baseline = None
    for line in (ROOT / "docs" / "ablations.md").read_text().splitlines():
        if match := re.match(r"## .*on top of `(\S+)`", line):
            baseline = match[1]
        elif match := re.match(r"\| [^|]+ \| `(\S+\.yaml)` \| [^|]+ \| (.*)\|$", line):
            yield match[1], baseline, dict(re.findall(r"`(\S+) ([^`]+)`", match[2]))


ROWS = list(rows())


def load(name):
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(FOLDER / name))
    return cfg


def flat(node, prefix=""):
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": str(value)}
    return values


def difference(cfg, other):
    ours, theirs = flat(cfg), flat(other)
    return {key: value for key, value in ours.items() if value != theirs[key]}


def test_every_config_has_a_row_and_every_row_a_config():
    assert sorted(name for name, _, _ in ROWS) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize(("name", "baseline", "keys"), ROWS, ids=[name for name, _, _ in ROWS])
def test_a_row_differs_from_its_baseline_by_the_listed_keys_only(name, baseline, keys):
    listed = {f"MODEL.{key}": value for key, value in keys.items()}
    assert difference(load(name), load(baseline)) == listed
    assert bool(keys) != (name == baseline)


def test_no_two_rows_are_the_same_experiment():
    experiments = [(baseline, tuple(sorted(keys.items()))) for _, baseline, keys in ROWS]
    assert len(set(experiments)) == len(experiments)


@pytest.mark.parametrize("name", [name for name, _, _ in ROWS])
def test_every_row_builds(name):
    cfg = load(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        build_model(cfg)


def test_the_baseline_has_none_of_libras_parts():
    """As in the paper: Fast R-CNN on given proposals, one image size, smooth L1 that turns linear at 1."""
    cfg = load("baseline.yaml")
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg)
    assert model.proposal_generator is None
    assert type(model.backbone).__name__ == "FPN"
    options = model.roi_heads.box_sampler.options
    assert (options["positive"], options["negative"]) == ("random", "random")
    predictor = model.roi_heads.box_predictor
    assert (predictor.box_reg_loss_type, predictor.smooth_l1_beta) == ("smooth_l1", 1.0)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,)
    assert cfg.MODEL.LOAD_PROPOSALS
