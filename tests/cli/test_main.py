"""One way in: every command is found, explained and fails in the same way, from any folder."""

import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import libra_d2.cli
from libra_d2.checks import UserError
from libra_d2.cli.main import COMMANDS, main, run

ROOT = Path(__file__).parents[2]


def test_the_commands_are_the_modules():
    modules = {path.stem.replace("_", "-") for path in Path(libra_d2.cli.__file__).parent.glob("*.py")}
    assert modules - {"--init--", "--main--", "main"} == set(COMMANDS)


def test_the_table_in_the_readme_is_the_list_of_commands():
    rows = re.findall(r"^\| `libra-d2 (\S+)` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert dict(rows) == COMMANDS


def test_help_lists_the_commands_without_importing_torch(tmp_path):
    code = (
        "import sys; from libra_d2.cli.main import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    for name, what in COMMANDS.items():
        assert name in done.stdout
        assert what in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: libra-d2 {command}")
    assert f"\n  libra-d2 {command}" in out.partition("example")[2]


def test_the_console_script_is_the_module(tmp_path):
    """As installed: the script that pip made, from a folder that holds nothing."""
    script = Path(sys.executable).with_name("libra-d2")
    lines = [
        subprocess.run([*way, "env", "--brief"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for way in ([script], [sys.executable, "-m", "libra_d2.cli"])
    ]
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"libra_d2 {libra_d2.__version__}, torch ")


def test_an_unknown_command_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["trian"])
    assert "train" in capsys.readouterr().err


def test_what_a_user_can_mend_is_one_line_and_a_bug_keeps_its_traceback(monkeypatch, capsys, tmp_path):
    check = importlib.import_module("libra_d2.cli.check")
    assert main(["check", str(tmp_path / "gone.json"), str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"libra-d2 check: error: there is no {tmp_path / 'gone.json'}\n"

    def fail(args):
        raise args.kind("what went wrong")

    monkeypatch.setattr(check, "run", lambda args: fail(type("Args", (), {"kind": UserError})))
    assert run("check", ["a", "b"], prog="check.py") == 1
    assert capsys.readouterr().err == "check.py: error: what went wrong\n"
    monkeypatch.setattr(check, "run", lambda args: fail(type("Args", (), {"kind": ValueError})))
    with pytest.raises(ValueError, match="what went wrong"):
        main(["check", "a", "b"])


def test_what_a_new_torch_logs_of_detectron2s_code_stays_off_the_terminal(caplog, capsys):
    from torch.fx import _symbolic_trace as tracing

    assert run("env", []) == 0
    tracing.is_fx_tracing_warning.__wrapped__()  # whose cache says it once a process
    assert not caplog.records
    logging.getLogger(tracing.__name__).warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]
