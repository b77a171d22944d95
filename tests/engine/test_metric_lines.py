"""The lines of a run are about training; what else is put into its storage is still there for the other writers."""

import logging
import re

from detectron2.utils.events import EventStorage, JSONWriter

from libra_d2.engine import LibraTrainer
from libra_d2.engine.metric_lines import TrainingLines


def test_lines_leave_validation_losses_out(caplog):
    with EventStorage(3) as storage, caplog.at_level(logging.INFO, "detectron2"):
        losses = {"total_loss": 1.5, "loss_cls": 0.5}
        for name, value in losses.items():
            storage.put_scalar(name, value)
            for prefix in ("validation_loss", "validation_loss_EMA", "own/validation_loss"):
                storage.put_scalar(f"{prefix}/{name}", 9.0)
        storage.put_scalar("time", 2.0)
        TrainingLines(10).write()
        assert storage.latest()["eta_seconds"] == (12.0, 3), "what the printer puts there is there"
        assert "validation_loss/total_loss" in storage.histories()
    assert re.search(r"iter: 3  total_loss: 1.5  loss_cls: 0.5 +time: 2", caplog.messages[-1]), caplog.messages


def test_a_run_prints_them_and_keeps_the_other_writers(config):
    kinds = [type(writer) for writer in LibraTrainer(config()).build_writers()]
    assert kinds[0] is TrainingLines
    assert JSONWriter in kinds
    assert len(kinds) == 3
