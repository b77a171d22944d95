"""benchmarks/accuracy/run.py: what is run, what is written down, what is left; train_net.py trains nothing here."""

import json
import sys

import pytest

# Writes what it was asked for, and an evaluation before the last one; the job with seed 3 fails
TRAIN_NET = """
import json, os, pathlib, sys
opts = dict(zip(sys.argv[::-1][1::2], sys.argv[::-1][::2]))
folder = pathlib.Path(opts["OUTPUT_DIR"])
seed = int(opts["SEED"])
if seed == 3:
    sys.exit("no")
names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-mask", "AP-face")
rows = [{"total_loss": 1.0}] + [{f"bbox/{n}": seed + i / 7 + j for i, n in enumerate(names)} for j in (10, 20)]
(folder / "metrics.json").write_text("".join(json.dumps(row) + chr(10) for row in [*rows, {"iteration": 1}]))
(folder / "model_final.pth").write_text("")
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def start(accuracy, monkeypatch, tmp_path):
    """run.py's main with arguments, on jobs with seeds 1 to 3; returns the results."""
    run, store, jobs = accuracy("run"), accuracy("results"), accuracy("jobs")
    (tmp_path / "train_net.py").write_text(TRAIN_NET)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(run, "prepare", lambda names, data: None)
    monkeypatch.setattr(run.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(jobs, "DETECTOR", tmp_path / "no detector")
    path = tmp_path / "results.csv"
    monkeypatch.setattr(run, "read", lambda: store.read(path))
    monkeypatch.setattr(run, "append", lambda result: store.append(result, path))

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", "--data", str(tmp_path), *arguments])
        run.main()
        return store.read(path)

    return main


def test_the_last_evaluation_of_each_job_is_written_down_once(start, tmp_path, capsys):
    only = ("--only", "facemask", "baseline", "imagenet", "detector", "seed1", "seed2")
    for _ in range(2):
        results = sorted(start(*only), key=lambda result: result.seed)  # two workers: in any order
        assert [(r.set, r.protocol, r.arm, r.seed) for r in results] == [
            ("facemask", "imagenet", "baseline", seed) for seed in (1, 2)
        ]
    assert (results[1].AP, results[1].AP50, results[1].classes) == (22.0, 22.14, "22.86 23.00")
    assert results[1].date
    folder = tmp_path / "output" / results[0].job().name
    assert (folder / "threads").read_text() == "1"
    assert not (folder / "model_final.pth").exists()
    assert "so its protocols have to wait" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_does_not_stop_the_others(start, tmp_path):
    only = ("--only", "facemask", "baseline", "imagenet", "seed3", "seed4")
    with pytest.raises(SystemExit, match="facemask_imagenet_baseline_0.0005_600_seed3: train_net.py ended with 1"):
        start(*only, "--workers", "1")
    (line,) = (tmp_path / "results.csv").read_text().splitlines()[1:]
    assert line.startswith("facemask,imagenet,baseline,0.0005,600,4,24.0")


def test_a_list_can_be_run_at_another_cell(start):
    only = ("--only", "facemask", "baseline", "imagenet", "seed1")
    (result,) = start(*only, "--cell", "0.001", "2400")
    assert (result.learning_rate, result.iterations) == (0.001, 2400)
    with pytest.raises(SystemExit, match="another list than --what search"):
        start("--what", "search", "--cell", "0.001", "2400")


def test_nothing_starts_after_the_minutes_are_over(start):
    assert start("--only", "facemask", "baseline", "imagenet", "--minutes", "0") == []


def test_checkpoints_are_kept_where_they_are_asked_for(start, tmp_path):
    (result,) = start("--only", "facemask", "baseline", "imagenet", "seed1", "--checkpoint-period", "50")
    assert (tmp_path / "output" / result.job().name / "model_final.pth").exists()


def test_a_metrics_file_without_an_evaluation_is_refused(accuracy, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"total_loss": 1.0}))
    with pytest.raises(SystemExit, match="metrics.json: expected an evaluation, got none"):
        accuracy("run").measured(tmp_path / "metrics.json")


def test_the_detector_is_trained_once_and_then_its_protocol_runs(start, accuracy, monkeypatch, tmp_path, capsys):
    run, jobs = accuracy("run"), accuracy("jobs")
    monkeypatch.setattr(jobs, "DETECTOR", tmp_path / "detector" / "model_final.pth")
    commands = []
    train = run.train
    monkeypatch.setattr(
        run, "train", lambda command, *rest, **more: (commands.append(command), train(command, *rest, **more))
    )
    for _ in range(2):
        start("--what", "detector")
    (command,) = commands  # a detector that is finished is left alone
    assert "--resume" in command
    assert str(tmp_path / "coco_person" / "train.json") in command
    given = dict(zip(command[-8::2], command[-7::2], strict=True))
    assert given["SOLVER.MAX_ITER"] == str(jobs.DETECTOR_CELL[1])
    assert given["SOLVER.CHECKPOINT_PERIOD"] == "500"
    assert "StandardROIHeads" in command
    results = start("--only", "facemask", "detector", "libra", "seed1")
    assert [(result.protocol, result.arm) for result in results] == [("detector", "libra")]
    assert "has to wait" not in capsys.readouterr().out
