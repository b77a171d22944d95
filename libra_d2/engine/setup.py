"""From a command's arguments to a finished config: the one place that knows the order of the steps."""

import argparse
from collections.abc import Sequence

from detectron2.config import CfgNode

from libra_d2.checkpoint.saved_classes import newest_checkpoint, saved_class_names
from libra_d2.checks import UserError
from libra_d2.config.files import given_keys, load_config
from libra_d2.config.keys import add_libra_config
from libra_d2.config.lazy import trust
from libra_d2.data import check_datasets, check_paths, complete_config, register_datasets
from libra_d2.data.class_names import TrainedClasses
from libra_d2.data.proposals import check_proposal_files

DATA_FLAGS = ("train_json", "train_images", "val_json", "val_images")


def setup(args, reads: Sequence[str] = (), overrides: Sequence = (), any_classes: bool = False) -> CfgNode:
    """The frozen config that a command's arguments describe, its data sets registered with Detectron2.

    Args:
        args: has ``config_file`` and ``opts``; those of ``train_json``, ``train_images``, ``val_json`` and
            ``val_images`` that it has and that are not empty go to ``MODEL.LIBRA.DATA``, ``tile`` and ``overlap`` to
            ``MODEL.LIBRA.TILES``.
        reads: which of the data sets "TRAIN" and "VAL" the command will read: they are checked as ``libra-d2 check``
            does, and errors are raised.
        overrides: ``KEY VALUE`` pairs that the command itself decides, whatever the user wrote.
        any_classes: ``MODEL.WEIGHTS`` may have been trained on other classes; with ``args.resume`` the checkpoints in
            ``OUTPUT_DIR`` may not.

    Raises:
        UserError: the config or the data cannot be used.
    """
    cfg = load_config(args.config_file, args.opts)
    for flag in DATA_FLAGS:
        cfg.MODEL.LIBRA.DATA[flag.upper()] = getattr(args, flag, "") or cfg.MODEL.LIBRA.DATA[flag.upper()]
    check_paths(cfg, reads)
    complete_config(cfg, given_keys(args.opts), _trained_classes(cfg, getattr(args, "resume", False), any_classes))
    _set_tiles(cfg, args)
    cfg.merge_from_list(list(overrides))
    check_datasets(cfg, reads)
    check_proposal_files(cfg, ["TEST" if split == "VAL" else split for split in reads])
    cfg.freeze()
    register_datasets(cfg)
    return cfg


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """--tile and --overlap, which :func:`setup` takes."""
    parser.add_argument(
        "--tile", type=int, metavar="PIXELS", help="cut larger images into tiles with this side (pip extra: tiles)"
    )
    parser.add_argument(
        "--overlap", type=float, metavar="PART", help="what a tile shares with the next, from 0 to below 1 (0.2)"
    )


def _set_tiles(cfg: CfgNode, args) -> None:
    tiles = cfg.MODEL.LIBRA.TILES
    if getattr(args, "tile", None) is not None:
        tiles.SIZE = args.tile
    if getattr(args, "overlap", None) is not None:
        if not tiles.SIZE:
            raise UserError(f"--overlap {args.overlap:g}: expected --tile PIXELS with it, got none")
        tiles.OVERLAP = args.overlap


def _trained_classes(cfg: CfgNode, resume: bool, any_classes: bool) -> TrainedClasses | None:
    """The classes of the weights that the model will have after loading, where they say them."""
    file = newest_checkpoint(cfg.OUTPUT_DIR) if resume else None
    if file is None and not any_classes:
        file = cfg.MODEL.WEIGHTS
    names = saved_class_names(file) if file else []
    return TrainedClasses(file, names) if names else None


def enter_process(cfg: CfgNode) -> None:
    """Fills the registries of a process that a launcher started: it gets the config, but not what was registered."""
    add_libra_config(cfg)
    if cfg.MODEL.LIBRA.LAZY.FILE:
        trust(cfg.MODEL.LIBRA.LAZY.FILE)
    register_datasets(cfg)
