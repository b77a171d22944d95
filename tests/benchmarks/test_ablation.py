"""benchmarks/ablation: what the folds show, what the arms change, which jobs follow and what the tables say."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

import libra_d2
from libra_d2.modeling.bfp import NonLocalRefine

ROOT = Path(libra_d2.__file__).parents[1]
SIZES = {"yell528_": (1300, 700), "yell541_": (900, 400)}


@pytest.fixture
def ablation(monkeypatch):
    """Imports a script of benchmarks/ablation by name, as its neighbours do."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks" / "ablation"), *sys.path])
    yield importlib.import_module
    own = {"attention", "experiment", "folds", "report", "run", "train_net"}
    for name in (own | {"side_by_side", "prepare_quickstart", "pinned_wheel"}) - before:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(ablation, monkeypatch, tmp_path):
    """The folds of two photographs with boxes everywhere, across the seams and the middle, too."""
    folds = ablation("folds")
    rng = np.random.default_rng(0)
    photographs = []
    for width, height in SIZES.values():
        corners = rng.uniform(0, (width - 60, height - 60), (200, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (200, 2))], axis=1)
        photographs.append((Image.new("RGB", (width, height)), [tuple(box) for box in boxes.tolist()]))
    monkeypatch.setattr(folds.quickstart, "read_photograph", lambda wheel, name: photographs.pop(0))
    monkeypatch.setattr(type(folds.TREES), "fetch", lambda self: None)
    folds.write(tmp_path / "folds")
    return tmp_path / "folds"


def pixels(folder, part):
    """How often the tiles of a part show each pixel of each photograph."""
    seen = {prefix: np.zeros((height, width), dtype=int) for prefix, (width, height) in SIZES.items()}
    for image in json.loads((folder / f"{part}.json").read_text())["images"]:
        prefix, corner = image["file_name"][:8], image["file_name"][8:].removesuffix(".png")
        x, y = map(int, corner.split("_"))
        seen[prefix][y : y + image["height"], x : x + image["width"]] += 1
    return seen


def test_no_pixel_is_trained_and_evaluated_in_one_fold_and_all_are_evaluated_once(folder):
    for prefix in SIZES:
        for fold in (0, 1):
            train, val = (pixels(folder, f"fold{fold}_{part}")[prefix] for part in ("train", "val"))
            assert ((train > 0) ^ (val > 0)).all()
        assert (pixels(folder, "fold0_val")[prefix] + pixels(folder, "fold1_val")[prefix] == 1).all()


def test_every_box_is_evaluated_once(folder):
    """Also those that no tile shows half of."""
    annotations = [a for i in (0, 1) for a in json.loads((folder / f"fold{i}_val.json").read_text())["annotations"]]
    assert sum(not a["iscrowd"] for a in annotations) == 400
    assert any(a["iscrowd"] for a in annotations)


def load(opts):
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "quickstart" / "libra_faster_rcnn_trees.yaml"))
    cfg.merge_from_list([*opts, "MODEL.WEIGHTS", ""])
    return cfg


def flat(node, prefix=""):
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return values


def changed(cfg, other):
    return {key.removeprefix("MODEL.") for key, value in flat(cfg).items() if value != flat(other)[key]}


def test_each_row_is_the_baseline_and_one_part_and_libra_is_the_quickstart(ablation):
    arms = ablation("experiment").ARMS
    baseline = load(arms["baseline"])
    assert baseline.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == libra_d2.get_cfg().MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE
    parts = {
        "sampling": {"LIBRA.SAMPLER.POSITIVE", "LIBRA.SAMPLER.NEGATIVE"},
        "bfp": {"LIBRA.BFP.ENABLED"},
        "balanced_l1": {"ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"},
    }
    for arm, keys in parts.items():
        assert changed(load(arms[arm]), baseline) == keys
    assert changed(load(arms["libra"]), baseline) == set.union(*parts.values())
    assert changed(load(arms["few_baseline"]), baseline) == {"ROI_HEADS.BATCH_SIZE_PER_IMAGE"}
    assert changed(load(arms["few_sampling"]), load(arms["few_baseline"])) == parts["sampling"]
    assert load(arms["libra"]) == load([])


def test_nothing_of_libra_trains_in_the_arm_of_detectron2(ablation):
    arms = ablation("experiment").ARMS

    def own(arm):
        model = build_model(load([*arms[arm], "MODEL.DEVICE", "cpu"]))
        return {type(module).__name__ for module in model.modules() if type(module).__module__.startswith("libra_d2")}

    assert own("detectron2") == {"TorchvisionBackbone"}
    assert {"LibraRCNN", "LibraRPN", "LibraROIHeads"} <= own("baseline")


def test_a_job_trains_what_its_name_says_with_clipped_gradients(ablation):
    job = ablation("experiment").Job("bfp", 0.002, 70, fold=1, seed=5)
    assert job.name == "bfp_0.002_70_fold1_seed5"
    cfg = load(job.opts())
    arm = load(ablation("experiment").ARMS["bfp"])
    assert changed(cfg, arm) == {"SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SEED"}
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (0.002, 70, 5)
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    assert (clipping.ENABLED, clipping.CLIP_TYPE, clipping.CLIP_VALUE) == (True, "norm", 0.1)


def results(experiment, aps):
    return [experiment.Result(*job, AP=ap, AP50=2 * ap, AP75=ap / 2) for job, ap in aps.items()]


def test_an_arm_is_trained_with_what_its_search_found_best_on_average(ablation):
    experiment = ablation("experiment")
    aps = {(job.arm, job.learning_rate, job.iterations, job.fold, 0): 1.0 for job in experiment.search_jobs()}
    slow, fast = experiment.LEARNING_RATES
    short, long = experiment.LENGTHS
    aps["baseline", slow, long, 0, 0] = 3.0
    aps["baseline", fast, short, 0, 0] = 4.0  # the best single run
    aps["baseline", slow, long, 1, 0] = 2.5
    aps["libra", fast, short, 0, 0] = aps["libra", fast, short, 1, 0] = 2.0
    jobs = experiment.final_jobs(results(experiment, aps))
    assert {(j.learning_rate, j.iterations) for j in jobs if j.arm == "libra"} == {(fast, short)}
    assert {(j.learning_rate, j.iterations) for j in jobs if j.arm != "libra"} == {(slow, long)}
    assert len(set(jobs)) == len(experiment.PARTS) * 2 * 3
    assert {job.seed for job in jobs} == {1, 2, 3}
    control = experiment.control_jobs(results(experiment, aps))
    assert {job.arm: (job.learning_rate, job.iterations) for job in control} == dict.fromkeys(
        ("baseline", "libra"), (fast, short)
    )
    assert {job for job in jobs if job.arm == "libra"} < set(control)


def test_the_baseline_is_also_trained_twice_as_long(ablation):
    experiment, report = ablation("experiment"), ablation("report")
    aps = {(job.arm, job.learning_rate, job.iterations, job.fold, 0): 1.0 for job in experiment.search_jobs()}
    rate, length = experiment.LEARNING_RATES[1], experiment.LENGTHS[-1]
    aps["baseline", rate, length, 0, 0], aps["baseline", rate, length, 1, 0] = 20.0, 21.0
    done = results(experiment, aps)
    assert experiment.doubled_jobs(done) == [experiment.Job("baseline", rate, 2 * length, fold, 0) for fold in (0, 1)]
    half = {**aps, ("baseline", rate, 2 * length, 0, 0): 20.0}
    assert f"after {2 * length}" not in report.doubled(results(experiment, half))
    whole = {**half, ("baseline", rate, 2 * length, 1, 0): 21.5}
    assert report.doubled(results(experiment, whole)).endswith(
        f"AP 20.50 after {length} iterations, AP 20.75 after {2 * length} iterations"
    )


def test_what_has_a_result_is_not_trained_again(ablation, tmp_path):
    experiment = ablation("experiment")
    jobs = experiment.search_jobs()
    assert list(experiment.remaining(jobs, experiment.read(tmp_path / "results.csv"))) == jobs
    for job in jobs[1:3]:
        experiment.append(experiment.Result(**vars(job), AP=1.5, AP50=2.0, AP75=1.0), tmp_path / "results.csv")
    done = experiment.read(tmp_path / "results.csv")
    assert list(experiment.remaining(jobs, done)) == [jobs[0], *jobs[3:]]
    assert list(experiment.remaining([*jobs[:3], *jobs], done)) == [jobs[0], *jobs[3:]]  # two lists with the same jobs


def test_before_a_cell_is_complete_the_search_alone_is_told(ablation, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "no.csv")])
    ablation("report").main()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_table_averages_folds_and_pairs_runs(ablation):
    experiment, report = ablation("experiment"), ablation("report")
    aps = {(job.arm, job.learning_rate, job.iterations, job.fold, 0): 1.0 for job in experiment.search_jobs()}
    cell = experiment.chosen(results(experiment, aps), "baseline")
    aps |= {("baseline", *cell, fold, seed): 10.0 + 8 * fold + seed for fold in (0, 1) for seed in (1, 2, 3)}
    aps |= {("bfp", *cell, 0, seed): 10.0 + seed + gain for seed, gain in ((1, 1.0), (2, -1.0), (3, 3.0))}
    aps[("bfp", *cell, 1, 1)] = 19.0
    done = results(experiment, aps)
    table = report.arms_table(done, experiment.final_jobs(done), "baseline")
    rows = {cells[1]: cells[2:] for cells in ([c.strip() for c in line.split("|")] for line in table.splitlines())}
    assert rows["baseline"][:2] == ["6", "16.0 ± 1.0"]  # seeds 15, 16, 17
    assert rows["bfp"][:2] == ["4", "15.5"]  # one seed has both folds
    assert rows["bfp"][4:6] == ["+0.8 ± 1.7", "+1.5 ± 3.4"]  # of 1, -1, 3, 0
    assert rows["bfp"][7] == "2 of 4"
    assert rows["libra"][0] == "0"


@pytest.mark.parametrize(("weight", "row"), [(0.0, ["2.2", "0", "12.0 of 12"]), (10.0, ["2.2", "1600", "1.0 of 12"])])
def test_attention_that_is_even_and_that_sees_one_position(ablation, weight, row):
    refine = NonLocalRefine(1)
    for conv in (refine.theta, refine.phi):
        torch.nn.init.constant_(conv.weight, weight)
        torch.nn.init.zeros_(conv.bias)
    level = torch.full((1, 1, 3, 4), 2.0)
    level[0, 0, 1, 1] = 4.0
    attention = ablation("attention").Attention()
    attention._measure(refine, (level,), None)
    assert attention._last == row
