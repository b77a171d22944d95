"""The report for bug reports: complete, and true about the backend."""

import os
import subprocess
import sys


def _report(*flags, **environment):
    command = [sys.executable, "-m", "libra_d2.cli", "env", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    ).stdout.splitlines()


def test_brief_is_one_line_with_the_backend_and_the_reason():
    (line,) = _report("--brief", LIBRA_D2_BACKEND="torch")
    assert "torch (LIBRA_D2_BACKEND=torch), CUDA kernels: no" in line


def test_the_report_names_what_a_bug_depends_on():
    lines = dict(line.split(None, 1) for line in _report())
    assert {"libra_d2", "backends", "python", "torch", "GPUs", "detectron2", "torchvision", "compilers"} <= set(lines)
    assert lines["python"].startswith(".".join(map(str, sys.version_info[:3])))


def test_a_missing_package_is_reported_not_raised(tmp_path):
    (tmp_path / "detectron2.py").write_text("raise ImportError('broken on purpose')")
    lines = _report(PYTHONPATH=str(tmp_path))
    assert any(line.startswith("detectron2") and "broken on purpose" in line for line in lines)
