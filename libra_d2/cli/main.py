"""``libra-d2 COMMAND``, the same as ``python -m libra_d2.cli COMMAND``.

A command is a module of this package with ``argument_parser(prog)`` and ``run(args)``, which returns the exit status.
"""

import argparse
import importlib
import logging
import sys
import traceback
import warnings
from collections.abc import Sequence

import libra_d2
from libra_d2.checks import UserError, require_detectron2

COMMANDS = {
    "train": "train, or resume training",
    "eval": "evaluate a trained model: COCO AP, and a report of tables and pictures",
    "predict": "find objects in images and videos: drawings, COCO results, a table",
    "export": "export a model to TorchScript or ONNX",
    "check": "find what is wrong with a COCO json and its images, and the settings that suit it",
    "convert": "convert weights from MMDetection, and back",
    "proposals": "write an RPN's proposals, to train Fast R-CNN on",
    "plot": "draw your data, what Libra R-CNN balances, or detections beside the ground truth",
    "install-detectron2": "install the tested Detectron2 where there is none",
    "env": "print what a bug report needs to say",
}
WITHOUT_DETECTRON2 = ("install-detectron2", "env")
# what a new torch says of Detectron2's and fvcore's code, in warnings and in its log
_OF_DETECTRON2 = ("`torch.jit.script` is deprecated", "torch.meshgrid: in an upcoming release")
_LOGGED = {"torch.fx._symbolic_trace": "is_fx_tracing will return true"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name; returns the exit status."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="libra-d2",
        description="Libra R-CNN for Detectron2.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
        + "\n\nexample: libra-d2 train --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"libra_d2 {libra_d2.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    args = parser.parse_args(argv)
    return run(args.command, args.arguments)


def _concerns_the_user(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_LOGGED[record.name])


def run(command: str, argv: Sequence[str] | None = None, prog: str = "") -> int:
    """Runs one command; this is the only place that catches a :class:`UserError`.

    Args:
        command: a key of ``COMMANDS``.
        argv: its arguments; None for those of the process.
        prog: how the user called it, for messages.
    """
    prog = prog or f"libra-d2 {command}"
    for message in _OF_DETECTRON2:
        warnings.filterwarnings("ignore", message)
    for name in _LOGGED:
        logging.getLogger(name).addFilter(_concerns_the_user)
    args = argparse.Namespace()
    try:
        if command not in WITHOUT_DETECTRON2:
            require_detectron2()
        module = importlib.import_module(f"libra_d2.cli.{command.replace('-', '_')}")
        args = module.argument_parser(prog).parse_args(argv)
        return module.run(args)
    except UserError as error:
        if getattr(args, "verbose", False):
            traceback.print_exc()
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
