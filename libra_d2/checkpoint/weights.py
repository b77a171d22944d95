"""Files of weights beside the checkpoints of a run."""

from libra_d2.checkpoint.checkpointer import LibraCheckpointer


class WeightsCheckpointer(LibraCheckpointer):
    """Writes weights to evaluate and predict with; ``--resume`` goes on from the checkpoints of the run instead."""

    def tag_last_checkpoint(self, last_filename_basename):
        pass
