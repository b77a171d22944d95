"""What works without Detectron2, and what the rest says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libra_d2.cli.main import COMMANDS, WITHOUT_DETECTRON2

ROOT = Path(__file__).parent.parent
BLOCKED = "import sys; sys.modules['detectron2'] = None\n"  # what an import finds there cannot be imported
MESSAGE = "Detectron2 is not installed; this installs it: libra-d2 install-detectron2"


def _python(code, *args, **environment):
    command = [sys.executable, "-W", "ignore", "-c", BLOCKED + code, *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def _libra_d2(*args):
    return _python("from libra_d2.cli.main import main; sys.exit(main())", *args)


def test_operators_and_losses_work():
    done = _python("""
import torch, libra_d2
from libra_d2 import losses, ops
boxes, offsets = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([0, 1])
print(ops.batched_iou(boxes, boxes, offsets, offsets)[0].item())
print(losses.balanced_l1_loss(torch.ones(1), torch.ones(1)).item())
""")
    assert done.stdout.split() == ["1.0", "0.0"], done.stderr


def test_every_module_can_be_imported_or_says_what_is_missing():
    """Commands are left out, which libra-d2 imports after the check, and libraries, which are no modules."""
    done = _python("""
import importlib, pkgutil
import libra_d2
from libra_d2.checks import MissingDetectron2

for module in pkgutil.walk_packages(libra_d2.__path__, "libra_d2.", onerror=lambda name: None):
    if module.name.startswith(("libra_d2.cli.", "libra_d2._core_")):
        continue
    try:
        importlib.import_module(module.name)
        print("imported", module.name)
    except MissingDetectron2 as error:
        print("missing", module.name, error)
""")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    imported = {line[1].split(".")[1] for line in lines if line[0] == "imported"}
    missing = {line[1].split(".")[1]: line[2] for line in lines if line[0] == "missing"}
    assert imported == {"checks", "cli", "config", "install", "losses", "ops"}
    assert set(missing.values()) == {MESSAGE}
    assert set(missing) == {path.parent.name for path in (ROOT / "libra_d2").glob("*/__init__.py")} - imported | {
        "config"  # config.files
    }


@pytest.mark.parametrize(
    "call",
    [
        "import libra_d2; libra_d2.get_cfg()",
        "import libra_d2; libra_d2.add_libra_config(None)",
        "from libra_d2 import model_zoo",
        "from libra_d2.config.files import load_config",
        "from libra_d2.inference import build_predictor",
    ],
)
def test_the_first_call_that_needs_it_says_so(call):
    done = _python(call)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"libra_d2.checks.MissingDetectron2: {MESSAGE}"


def test_it_can_be_caught_as_any_missing_module():
    assert (
        _python("""
try:
    import libra_d2.modeling
except ImportError:
    print("caught")
""").stdout.strip()
        == "caught"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command):
    done = _libra_d2(command, "--help")
    if command in WITHOUT_DETECTRON2:
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: libra-d2 {command}")
    else:
        assert (done.returncode, done.stderr) == (1, f"libra-d2 {command}: error: {MESSAGE}\n")


def test_the_list_of_commands_and_the_report_for_bugs():
    assert "commands:" in _libra_d2("--help").stdout
    lines = dict(line.split(None, 1) for line in _libra_d2("env").stdout.splitlines())
    assert lines["detectron2"] == "not installed: libra-d2 install-detectron2"
