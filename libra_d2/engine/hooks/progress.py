"""A progress bar in place of the lines that a run prints, where somebody watches it in a terminal."""

import contextlib
import datetime
import logging
import os
import resource
import sys
import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import CommonMetricPrinter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from libra_d2.engine.output_dir import LOGGERS

_LINES_OF = CommonMetricPrinter().logger.name


class ProgressBar(HookBase):
    """Losses, AP so far, images a second, memory and the time that is left, on one line; log.txt is as without it.

    For the main rank, before the hooks that evaluate: the bar makes room for what they print.
    """

    WINDOW = 20
    #: between two drawings, whose medians cost more than a step can pay for
    SECONDS = 0.5

    def __init__(self, cfg: CfgNode):
        self._batch_size, self._eval_period = cfg.SOLVER.IMS_PER_BATCH, cfg.TEST.EVAL_PERIOD
        self._metric = cfg.MODEL.LIBRA.TRAIN.BEST_METRIC or "bbox/AP"
        self._redirected = contextlib.ExitStack()
        self._bar: tqdm | None = None
        self._drawn = 0.0

    @staticmethod
    def is_wanted() -> bool:
        return sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0

    def before_train(self):
        loggers = [logging.getLogger(name) for name in LOGGERS]
        loggers = [logger for logger in loggers if logger.handlers]
        self._redirected.enter_context(logging_redirect_tqdm(loggers))
        for handler in (handler for logger in loggers for handler in logger.handlers):
            if getattr(handler, "stream", None) is sys.stdout:
                handler.addFilter(_is_no_line_of_metrics)

    def before_step(self):
        if self._bar is None:
            self._bar = tqdm(
                total=self.trainer.max_iter,
                initial=self.trainer.iter,
                bar_format="{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}",
                dynamic_ncols=True,
                file=sys.stdout,
                leave=False,
            )

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._eval_period > 0 and done % self._eval_period == 0):
            self._close()
        elif time.monotonic() - self._drawn >= self.SECONDS:
            self._drawn = time.monotonic()
            self._bar.n = done
            self._bar.set_postfix_str(self._told())

    def after_train(self):
        self._close()
        self._redirected.close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _told(self) -> str:
        storage = self.trainer.storage
        told = [f"loss {self._median('total_loss'):.3g}"]
        if self._metric in storage.latest():
            told.append(f"{self._metric.rpartition('/')[2]} {storage.latest()[self._metric][0]:.3g}")
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000)
            left = datetime.timedelta(seconds=int(seconds * (self.trainer.max_iter - self.trainer.iter - 1)))
            told += [f"{self._batch_size / seconds:.3g} images/s", f"eta {left}"]
        told.append(f"{_memory() / 2**20:.0f}M")
        told += [
            f"{name.removeprefix('loss_')} {self._median(name):.3g}"
            for name in storage.histories()
            if "loss" in name and name != "total_loss" and "/" not in name
        ]
        return "  ".join(told)

    def _median(self, name: str) -> float:
        return self.trainer.storage.history(name).median(self.WINDOW)


def _is_no_line_of_metrics(record: logging.LogRecord) -> bool:
    return record.name != _LINES_OF


def _memory() -> float:
    """The most that was in use so far, in bytes: of the GPU or, without one, of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
