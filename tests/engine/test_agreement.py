"""Ranks with another config, other annotations or other code are named before they train together."""

import pytest

from libra_d2.checks import UserError
from libra_d2.config import get_cfg
from libra_d2.engine import agreement


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    (tmp_path / "a.json").write_text("{}")
    cfg.MODEL.LIBRA.DATA.TRAIN_JSON = str(tmp_path / "a.json")
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


def test_another_host_keeps_the_same_files_elsewhere(cfg, tmp_path):
    before = agreement.fingerprints(cfg)
    (tmp_path / "b.json").write_text("{}")
    cfg.MODEL.LIBRA.DATA.TRAIN_JSON, cfg.OUTPUT_DIR = str(tmp_path / "b.json"), "elsewhere"
    assert agreement.fingerprints(cfg) == before


@pytest.mark.parametrize("what", ["config", "annotations"])
def test_what_differs_is_named_with_the_ranks(cfg, what, monkeypatch):
    first = agreement.fingerprints(cfg)
    if what == "config":
        cfg.SOLVER.BASE_LR = 0.5
    else:
        open(cfg.MODEL.LIBRA.DATA.TRAIN_JSON, "w").write("{ }")
    monkeypatch.setattr(agreement.comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(agreement.comm, "all_gather", lambda own: [first, own, first])
    with pytest.raises(UserError, match=rf"expected the same {what} on every rank, ranks \[1\] have another"):
        agreement.check_agreement(cfg)
    monkeypatch.setattr(agreement.comm, "all_gather", lambda own: [own] * 3)
    agreement.check_agreement(cfg)
