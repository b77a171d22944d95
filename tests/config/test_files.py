from pathlib import Path

import pytest
import torch

from libra_d2.checks import UserError
from libra_d2.config import get_cfg
from libra_d2.config.files import load_config

ROOT = Path(__file__).parents[2]


def message(config_file="", opts=()):
    with pytest.raises(UserError) as caught:
        load_config(str(config_file), list(opts))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (["MODEL.WIGHTS", "x"], "unknown config key MODEL.WIGHTS; did you mean MODEL.WEIGHTS?"),
        (
            ["MODEL.LIBRA.BFP.REFINE_LEVL", "p4"],
            "unknown config key MODEL.LIBRA.BFP.REFINE_LEVL; did you mean MODEL.LIBRA.BFP.REFINE_LEVEL",
        ),
        (["model.device", "cpu"], "unknown config key model.device; did you mean MODEL.DEVICE?"),
        (["NUM_BINS", "3"], "unknown config key NUM_BINS; did you mean MODEL.LIBRA.SAMPLER.NUM_BINS?"),
        (["QWERTY", "3"], "unknown config key QWERTY"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR: expected float, such as '0.001', got 'fast'"),
        (
            ["MODEL.LIBRA.SAMPLER.NUM_BINS", "2.5"],
            "MODEL.LIBRA.SAMPLER.NUM_BINS: expected int, such as '3', got '2.5'",
        ),
        (["SOLVER.BASE_LR=0.1"], "expected pairs of KEY VALUE at the end of the command, got 'SOLVER.BASE_LR=0.1'"),
        (["SEED", "1", "--eval-only"], "--eval-only has to come before the first KEY VALUE pair (SEED)"),
    ],
)
def test_wrong_pairs_are_reported_with_key_and_near_names(opts, expected):
    assert message(opts=opts).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("MODEL:\n  WIGHTS: x\n", "unknown config key MODEL.WIGHTS; did you mean MODEL.WEIGHTS?"),
        ("SOLVER:\n  MAX_ITER: many\n", "SOLVER.MAX_ITER: expected int, such as '40000', got 'many'"),
        ("MODEL: 3\n", "expected keys and values"),
        ("MODEL: [\n", "while parsing"),
        ("_BASE_: gone.yaml\n", "[Errno 2] No such file"),
        ("MODEL: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("just words\n", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)
def test_wrong_files_are_reported_with_their_name(content, expected, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    assert message(file).startswith(f"{file}: {expected}")


def test_a_missing_file_is_reported():
    assert message("gone.yaml") == "--config-file: there is no file gone.yaml"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_a_device_that_is_not_there_is_reported():
    assert message(opts=["MODEL.DEVICE", "cuda"]).endswith("no CUDA device is visible: add MODEL.DEVICE cpu")


def test_what_is_right_is_merged_and_what_is_given_later_wins(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("SOLVER:\n  BASE_LR: 0.1\n  MAX_ITER: 7\n")
    cfg = load_config(str(file), ["SOLVER.BASE_LR", "0.5"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 7)
    assert load_config("", []).dump() == get_cfg().dump()


@pytest.mark.parametrize(
    "name", ["finetune/libra_faster_rcnn_R_50_FPN_1x.yaml", "configs/quickstart/libra_faster_rcnn_trees"]
)
def test_a_config_of_ours_is_taken_by_name_from_any_folder(name, tmp_path, monkeypatch):
    file = ROOT / "configs" / name.removeprefix("configs/").removesuffix(".yaml")
    expected = load_config(f"{file}.yaml", []).dump()
    monkeypatch.chdir(tmp_path)
    assert load_config(name, []).dump() == expected
    (tmp_path / "own.yaml").write_text(f"_BASE_: {name}\nSOLVER: {{MAX_ITER: 7}}\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deeper.yaml").write_text("_BASE_: ../own.yaml\n")
    for own in ("own.yaml", "sub/deeper.yaml"):
        cfg = load_config(own, [])
        assert cfg.SOLVER.MAX_ITER == 7
        cfg.SOLVER.MAX_ITER = load_config(name, []).SOLVER.MAX_ITER
        assert cfg.dump() == expected


def test_a_missing_config_is_answered_with_near_names():
    said = message("finetune/libra_faster_rcnn_R_50_FPN_2x.yaml")
    assert said.startswith("--config-file: there is no file finetune/libra_faster_rcnn_R_50_FPN_2x.yaml; did you mean ")
    assert "libra_faster_rcnn_R_50_FPN_1x.yaml" in said
