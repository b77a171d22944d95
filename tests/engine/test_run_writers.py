"""Trackers of experiments: what they get, that a resumed run goes on in its own run, and what is refused.

Most tests know the libraries by stand-ins of what is used of them; those at the end use the libraries, where they are.
"""

import importlib.machinery
import importlib.util
import json
import logging
import sys
import types

import pytest
import yaml

from libra_d2.checks import UserError
from libra_d2.engine.run_writers import WRITERS, check_run_writers
from tests.engine.runs import train

SOLVER = {"CHECKPOINT_PERIOD": 1, "MAX_ITER": 3, "STEPS": []}


class Tracker(types.ModuleType):
    """The parts of both libraries that are used; ``runs`` is what they would show: {id: {iteration: scalars}}."""

    class Error(Exception):
        pass

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.exceptions = types.SimpleNamespace(MlflowException=self.Error)
        self.runs, self.ends, self.config, self.down = {}, [], None, False

    def _enter(self, run_id):
        if self.down:
            raise self.Error("no\nlog-in")
        self.id = run_id or f"run{len(self.runs)}"
        self.runs.setdefault(self.id, {})

    def _take(self, scalars, iteration):
        if self.down:
            raise self.Error("the server is away")
        self.runs[self.id].setdefault(iteration, {}).update(scalars)


class Wandb(Tracker):
    def init(self, *, dir, config, id=None, resume=None, allow_val_change):
        assert (resume == "allow") == (id is not None)
        self._enter(id)
        self.config = config
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "iteration")

    def log(self, scalars):
        self._take(scalars, scalars["iteration"])

    def finish(self, exit_code):
        self.ends.append(exit_code == 0)


class Mlflow(Tracker):
    def start_run(self, run_id, run_name):
        assert run_name == ("out" if run_id is None else None)
        self._enter(run_id)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=self.id))

    def log_text(self, text, file):
        assert file == "config.yaml"
        self.config = yaml.safe_load(text)

    def log_metrics(self, scalars, step):
        self._take(scalars, step)

    def end_run(self, status):
        self.ends.append({"FINISHED": True, "KILLED": False}[status])


@pytest.fixture(params=[Wandb, Mlflow], ids=["wandb", "mlflow"])
def tracker(request, monkeypatch):
    ret = request.param(request.param.__name__.lower())
    monkeypatch.setitem(sys.modules, ret.__name__, ret)
    return ret


def settings(name, **more):
    return {"SOLVER": SOLVER, "MODEL": {"LIBRA": {"TRAIN": {"WRITERS": [name]}}}, **more}


def written(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line.pop("iteration"): line for line in lines}


def without_times(by_iteration):
    left_out = ("time", "data_time", "rank_data_time", "eta_seconds", "iteration")
    kept = {i: {k: v for k, v in of.items() if k not in left_out} for i, of in by_iteration.items()}
    return json.dumps(kept, sort_keys=True)  # NaN equals itself there


def test_a_tracker_gets_what_metrics_json_gets(tracker, config, tmp_path):
    cfg = config(**settings(tracker.__name__))
    train(cfg)
    (taken,) = tracker.runs.values()
    assert without_times(taken) == without_times(written(tmp_path / "out"))
    assert "total_loss" in taken[2]
    assert tracker.config == yaml.safe_load(cfg.dump())
    assert tracker.ends == [True]
    assert list((tmp_path / "out").glob("events.out.tfevents.*")), "TensorBoard is still there"


def test_a_resumed_run_goes_on_in_the_same_one_and_a_new_run_does_not(tracker, config):
    train(config(**settings(tracker.__name__)), stop_before=1)
    train(config(**settings(tracker.__name__)), resume=True)
    assert list(tracker.runs) == ["run0"]
    assert tracker.ends == [False, True]
    assert {0, 2} <= set(tracker.runs["run0"])
    train(config(**settings(tracker.__name__)))
    assert list(tracker.runs) == ["run0", "run1"]


def test_a_tracker_that_refuses_ends_the_run_before_its_first_step(tracker, config):
    tracker.down = True
    name = tracker.__name__
    with pytest.raises(UserError, match=rf"TRAIN.WRITERS: {name} cannot begin a run \(no log-in\)$"):
        train(config(**settings(name)))
    assert tracker.runs == {}


def test_a_tracker_that_fails_on_the_way_does_not_end_the_run(tracker, config, caplog, monkeypatch):
    opened = WRITERS[tracker.__name__].open

    def goes_down(writer, **kwargs):
        opened(writer, **kwargs)
        tracker.down = True

    monkeypatch.setattr(WRITERS[tracker.__name__], "open", goes_down)
    with caplog.at_level(logging.WARNING, "libra_d2"):
        losses, _ = train(config(**settings(tracker.__name__)))
    assert set(losses) == {0, 1, 2}
    assert f"{tracker.__name__} has not taken the scalars of iteration 2: the server is away" in caplog.text


def test_names_that_mlflow_does_not_take_are_changed(tmp_path, config, monkeypatch):
    library = Mlflow("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", library)
    writer = WRITERS["mlflow"](config())
    writer.open(is_resumed=False)
    writer._log({"bbox/AP-fish & chips, 1": 1.0}, 3)
    assert library.runs == {"run0": {3: {"bbox/AP-fish _ chips_ 1": 1.0}}}


@pytest.mark.parametrize("name", WRITERS)
def test_a_library_that_is_missing_is_named_before_the_run(name, config, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == name else find_spec(module))
    with pytest.raises(UserError, match=rf"WRITERS {name} needs {name}: pip install 'libra_d2\[{name}\]'"):
        check_run_writers(config(**settings(name)))


def test_an_unknown_tracker_is_refused(config):
    with pytest.raises(UserError, match=r"WRITERS: expected names out of \['wandb', 'mlflow'\], got 'tensorboard'"):
        check_run_writers(config(**settings("tensorboard")))


def test_wandb_itself(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="it is optional: pip install 'libra_d2[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(config(**settings("wandb")), stop_before=1)
    train(config(**settings("wandb")), resume=True)
    (run_id,) = {file.stem.removeprefix("run-") for file in (tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb")}
    assert run_id == (tmp_path / "out" / "wandb_run_id").read_text()


def test_mlflow_itself(config, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="it is optional: pip install 'libra_d2[mlflow]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # databases need more than mlflow-skinny has
    mlflow.set_tracking_uri(tmp_path.joinpath("runs").as_uri())
    try:
        train(config(**settings("mlflow")), stop_before=1)
        train(config(**settings("mlflow")), resume=True)
        run_id = (tmp_path / "out" / "mlflow_run_id").read_text()
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        steps = [metric.step for metric in client.get_metric_history(run_id, "total_loss")]
        assert (run.info.status, run.info.run_name) == ("FINISHED", "out")
        assert sorted(set(steps)) == [0, 2]
        assert len(client.search_runs(run.info.experiment_id)) == 1
    finally:
        mlflow.set_tracking_uri(None)
