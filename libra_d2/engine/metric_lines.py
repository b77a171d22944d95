"""The lines of metrics that a run prints and logs."""

from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage

from libra_d2.evaluation.metrics import lower_is_better


class TrainingLines(CommonMetricPrinter):
    """Detectron2's, about training alone: it would also print validation losses, as every scalar called a loss."""

    def write(self):
        with _OfTraining(get_event_storage()):
            super().write()


class _OfTraining(EventStorage):
    """The storage of a run, which does not list its validation losses."""

    def __init__(self, storage: EventStorage):
        vars(self).update(vars(storage))  # what is put into this one is in that one, too

    def histories(self):
        return {name: history for name, history in super().histories().items() if not lower_is_better(name)}
