"""The learning rate and the schedule for another batch than the one that they were written for."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from libra_d2.checks import UserError, number, value_of

_CHANGED = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "MODEL.LIBRA.TRAIN.EMA_DECAY",
)


def scaled(cfg: CfgNode, world_size: int) -> CfgNode:
    """The config with the schedule for its own batch, where it names another one that its schedule is for.

    ``SOLVER.REFERENCE_WORLD_SIZE`` names a number of processes: as in Detectron2, ``IMS_PER_BATCH`` is scaled as well.
    ``MODEL.LIBRA.TRAIN.REFERENCE_BATCH`` names a number of images: ``IMS_PER_BATCH`` stays. In both cases the learning
    rate grows with the batch and everything that counts iterations shrinks. Afterwards the two keys name what the run
    has: to scale the result changes nothing.

    Args:
        world_size: the number of processes, on all machines together.

    Returns:
        ``cfg`` itself where there is nothing to scale.

    Raises:
        UserError: the batch is none, or the reference is.
    """
    ranks, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    reference = cfg.MODEL.LIBRA.TRAIN.REFERENCE_BATCH
    number(cfg, "SOLVER.REFERENCE_WORLD_SIZE", "0 (off) or a number of processes", lambda x: x >= 0)
    number(cfg, "MODEL.LIBRA.TRAIN.REFERENCE_BATCH", "0 (off) or a number of images", lambda x: x >= 0)
    if ranks in (0, world_size) and reference in (0, batch):
        return cfg
    if batch < 1 or (ranks and batch % ranks):
        what = f"a multiple of SOLVER.REFERENCE_WORLD_SIZE {ranks}" if ranks else "at least one image"
        raise UserError(f"SOLVER.IMS_PER_BATCH: expected {what}, got {batch}")
    ret = cfg.clone()
    ret.defrost()
    if reference:  # Detectron2 scales from one number of processes to another; here each stands for an image
        ret.SOLVER.IMS_PER_BATCH = ret.SOLVER.REFERENCE_WORLD_SIZE = reference
        ret = DefaultTrainer.auto_scale_workers(ret, batch)
        ret.SOLVER.REFERENCE_WORLD_SIZE = ranks
    ret = DefaultTrainer.auto_scale_workers(ret, world_size)
    # Rounded to 0 they would mean something else.
    ret.SOLVER.CHECKPOINT_PERIOD = max(ret.SOLVER.CHECKPOINT_PERIOD, min(cfg.SOLVER.CHECKPOINT_PERIOD, 1))
    ret.TEST.EVAL_PERIOD = max(ret.TEST.EVAL_PERIOD, min(cfg.TEST.EVAL_PERIOD, 1))
    growth = (batch / reference if reference else 1) * (world_size / ranks if ranks else 1)
    ret.MODEL.LIBRA.TRAIN.EMA_DECAY **= growth
    ret.MODEL.LIBRA.TRAIN.REFERENCE_BATCH = ret.SOLVER.IMS_PER_BATCH if reference else 0
    if cfg.is_frozen():
        ret.freeze()
    return ret


def changes(before: CfgNode, after: CfgNode) -> str:
    """What :func:`scaled` has done, e.g. "SOLVER.BASE_LR 0.02 -> 0.0025, ..."; "" for nothing."""
    pairs = [(key, value_of(before, key), value_of(after, key)) for key in _CHANGED]
    return ", ".join(f"{key} {old} -> {new}" for key, old, new in pairs if old != new)
