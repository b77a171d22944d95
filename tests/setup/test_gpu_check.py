"""What of `make gpu-check` needs no GPU: what it counts, what it runs and what it reports."""

import sys
import warnings

import pytest
import torch
from detectron2.modeling import build_model
from torch.utils import cpp_extension

from libra_d2 import ops


@pytest.fixture
def gpu_check(monkeypatch):
    """The script where all checks pass, and a GPU is believed to be there."""
    import gpu_check

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ops, "has_cuda", lambda: True)
    monkeypatch.setattr(gpu_check, "table", lambda: "| no work |")
    for check in [name for name in vars(gpu_check) if name.startswith("check_")]:
        monkeypatch.setattr(gpu_check, check, lambda *_: None)
    return gpu_check


def test_a_table_that_fails_is_a_check_that_fails(gpu_check, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--table", str(tmp_path / "table.md")])
    assert gpu_check.main() == 0
    assert (tmp_path / "table.md").read_text() == "| no work |\n"
    assert capsys.readouterr().out.endswith("| no work |\ngpu-check: all checks passed\n")
    monkeypatch.setattr(gpu_check, "table", lambda: 1 / 0)
    assert gpu_check.main() == 1
    assert capsys.readouterr().out.endswith("gpu-check: failed: timings\n")


def test_a_part_runs_alone(gpu_check, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--part", "graphs", "timings"])
    assert gpu_check.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "== graphs",
        "== timings",
        "| no work |",
        "gpu-check: all checks passed",
    ]


def test_whole_models_take_a_step_in_both_precisions(monkeypatch):
    import gpu_check

    def with_a_weight_that_overflows(cfg):
        model = build_model(cfg)
        model.backbone.refine.theta.weight.data.fill_(1e38)
        return model

    small = {"names": ["libra_retinanet"], "device": "cpu", "size": (96, 128)}
    gpu_check.check_models(**small)
    monkeypatch.setattr("detectron2.modeling.build_model", with_a_weight_that_overflows)
    with pytest.raises(AssertionError, match="libra_retinanet, mixed precision False: not finite: loss_cls"):
        gpu_check.check_models(**small)


def test_only_waits_are_counted(monkeypatch):
    import gpu_check

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)

    def step():
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("Synchronization debug mode does not yet detect all synchronizing operations", stacklevel=1)

    assert gpu_check.waits(step) == 1


def test_compute_sanitizer_of_the_toolkit_watches_the_kernels(monkeypatch, tmp_path):
    """And not what torch asks the driver, who may say no."""
    import gpu_check

    for folder in ("toolkit/bin", "path"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "compute-sanitizer").touch(mode=0o755)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    commands = []
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda command, **_: commands.append(command))
    for tool in ("memcheck", "racecheck", "synccheck"):
        gpu_check.check_compute_sanitizer(tool)
    assert {command[0] for command in commands} == {str(tmp_path / "toolkit" / "bin" / "compute-sanitizer")}
    assert [command[command.index("--tool") + 1] for command in commands] == ["memcheck", "racecheck", "synccheck"]
    assert all(command[command.index("--report-api-errors") + 1] == "no" for command in commands)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert gpu_check.find_compute_sanitizer() == str(tmp_path / "path" / "compute-sanitizer")


def test_work_is_timed_beside_its_estimate(monkeypatch):
    import gpu_check

    class Work:
        def __init__(self, images, gts, boxes):
            self.match = self.match_with_detectron2 = self.sample_with_detectron2 = lambda *_: None

    assert len(gpu_check.anchors_of()) == gpu_check.ANCHORS
    monkeypatch.setattr(gpu_check, "Batch", Work)
    monkeypatch.setattr(gpu_check, "replayed_us", lambda function: 7.25)
    monkeypatch.setattr(gpu_check, "median_ms", lambda function, repeats: repeats / 10)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    rows = [line.strip("| ").split(" | ") for line in gpu_check.table().splitlines()[4:]]
    assert {row[0]: row[2] for row in rows if row[2]} == gpu_check.ESTIMATES
    assert [row[0] for row in rows].count("sample 16 x 2,000 proposals x 50") == 1
    assert all([row[1], *row[3:]] == ["7.2", "5.000", "1.000", "0.2"] for row in rows)
