"""Writers that send what metrics.json gets to a tracker of experiments: Weights & Biases or MLflow.

Project, server, mode and so on are those of the library's own environment variables and log-ins.
"""

import abc
import collections
import importlib
import logging
import re
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from libra_d2.checkpoint.atomic import atomic_write
from libra_d2.checks import UserError, require_packages

logger = logging.getLogger(__name__)

_KEY = "MODEL.LIBRA.TRAIN.WRITERS"


class RunWriter(EventWriter):
    """A run of a tracker, whose id lies in OUTPUT_DIR: a run that ``--resume`` continues goes on in it.

    For the main rank alone. The run begins before the first step; a tracker that fails later costs scalars, with a
    warning, and not the training.
    """

    #: of the library, of its package on PyPI, and of the extra of libra_d2 that has it
    name: str
    #: Detectron2's writers take medians over as many iterations
    WINDOW = 20

    def __init__(self, cfg: CfgNode):
        self._cfg, self._library = cfg, importlib.import_module(self.name)
        self._id_file = Path(cfg.OUTPUT_DIR) / f"{self.name}_run_id"
        self._is_open, self._last_write = False, -1

    def open(self, is_resumed: bool) -> None:
        """Begins a run, or goes on in the one that this run has in the tracker.

        Raises:
            UserError: the tracker refuses, as without a log-in.
        """
        before = self._id_file.read_text().strip() if is_resumed and self._id_file.exists() else None
        try:
            run_id = self._open(before)
        except self._error() as error:
            then = f"; without {self._id_file} a new run begins there" if before else ""
            raise UserError(f"{_KEY}: {self.name} cannot begin a run ({' '.join(str(error).split())}){then}") from error
        with atomic_write(self._id_file, text=True) as file:
            file.write(run_id)
        self._is_open = True

    def write(self):
        if not self._is_open:  # Detectron2 writes after whatever ends a run
            return
        by_iteration: dict[int, dict[str, float]] = collections.defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self.WINDOW).items():
            if iteration > self._last_write:
                by_iteration[iteration][name] = float(value)
        for iteration in sorted(by_iteration):
            self._last_write = iteration
            try:
                self._log(by_iteration[iteration], iteration)
            except self._error() as error:
                logger.warning(f"{self.name} has not taken the scalars of iteration {iteration}: {error}")

    def end(self, is_complete: bool) -> None:
        """Ends the run in the tracker: as finished, or as one that can be continued."""
        if self._is_open:
            self._end(is_complete)

    @abc.abstractmethod
    def _open(self, before: str | None) -> str:
        """The id of the run that is begun or, where ``before`` is one, continued."""

    @abc.abstractmethod
    def _log(self, scalars: dict[str, float], iteration: int) -> None: ...

    @abc.abstractmethod
    def _end(self, is_complete: bool) -> None: ...

    @abc.abstractmethod
    def _error(self) -> type[Exception]:
        """What the library raises where the tracker fails."""


class WandbWriter(RunWriter):
    """Weights & Biases; its files go to OUTPUT_DIR/wandb. ``WANDB_MODE=offline`` needs neither network nor log-in."""

    name = "wandb"

    def _open(self, before):
        self._run = self._library.init(
            dir=self._cfg.OUTPUT_DIR,
            config=yaml.safe_load(self._cfg.dump()),
            allow_val_change=True,
            **({"id": before, "resume": "allow"} if before else {}),
        )
        # Not W&B's own step, which may not go back: a resumed run repeats iterations.
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def _log(self, scalars, iteration):
        self._run.log({**scalars, "iteration": iteration})

    def _end(self, is_complete):
        self._run.finish(exit_code=0 if is_complete else 1)

    def _error(self):
        return self._library.Error


class MlflowWriter(RunWriter):
    """MLflow, with the config as an artifact of the run."""

    name = "mlflow"

    def _open(self, before):
        name = None if before else Path(self._cfg.OUTPUT_DIR).name
        run = self._library.start_run(run_id=before, run_name=name)
        self._library.log_text(self._cfg.dump(), "config.yaml")
        return run.info.run_id

    def _log(self, scalars, iteration):
        # Names of classes are part of metrics' names, and may have what MLflow does not take.
        self._library.log_metrics({re.sub(r"[^\w\-. :/]", "_", k): v for k, v in scalars.items()}, step=iteration)

    def _end(self, is_complete):
        self._library.end_run("FINISHED" if is_complete else "KILLED")

    def _error(self):
        return self._library.exceptions.MlflowException


WRITERS: dict[str, type[RunWriter]] = {writer.name: writer for writer in (WandbWriter, MlflowWriter)}


def build_run_writers(cfg: CfgNode) -> list[RunWriter]:
    """Those that ``MODEL.LIBRA.TRAIN.WRITERS`` names, to be written to by :class:`PeriodicWriter`."""
    return [WRITERS[name](cfg) for name in cfg.MODEL.LIBRA.TRAIN.WRITERS]


def check_run_writers(cfg: CfgNode) -> None:
    """Finds out whether the libraries of the trackers are there.

    Raises:
        UserError: one is not, or there is no such tracker.
    """
    for name in cfg.MODEL.LIBRA.TRAIN.WRITERS:
        if name not in WRITERS:
            raise UserError(f"{_KEY}: expected names out of {list(WRITERS)}, got {name!r}")
        require_packages(f"{_KEY} {name}", [name], name)
