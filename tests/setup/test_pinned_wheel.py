"""A wheel is taken whole and unchanged, or a message says what was wanted."""

import hashlib
import importlib
import re

import pytest

CONTENT = b"a wheel"


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    module = importlib.import_module("pinned_wheel")
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module, "BY_HAND", tmp_path / "by_hand")
    (tmp_path / "by_hand").mkdir()
    return module


def _wheel(pinned, content=CONTENT):
    return pinned.PinnedWheel("no-such-package", "1.2.3", "a.whl", hashlib.sha256(content).hexdigest())


def test_a_file_put_there_by_hand_is_used(pinned):
    path = pinned.BY_HAND / "a.whl"
    path.write_bytes(CONTENT)
    assert _wheel(pinned).fetch() == path


def test_another_content_is_refused(pinned):
    path = pinned.BY_HAND / "a.whl"
    path.write_bytes(b"something else")
    expected, got = (hashlib.sha256(content).hexdigest() for content in (CONTENT, b"something else"))
    with pytest.raises(SystemExit, match=re.escape(f"{path}: expected SHA-256 {expected}, got {got}")):
        _wheel(pinned).fetch()


def test_a_failed_download_says_what_was_wanted_and_leaves_nothing(pinned, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(SystemExit) as caught:
        _wheel(pinned).fetch()
    for fact in ("no-such-package==1.2.3", "a.whl", hashlib.sha256(CONTENT).hexdigest(), str(pinned.BY_HAND)):
        assert fact in str(caught.value)
    assert list(pinned.CACHE.iterdir()) == []


def test_a_download_with_another_content_is_not_kept(pinned, monkeypatch):
    def download(command, **_):
        folder = command[command.index("--dest") + 1]
        (pinned.Path(folder) / "a.whl").write_bytes(b"not what was pinned")
        return pinned.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pinned.subprocess, "run", download)
    with pytest.raises(SystemExit, match="expected SHA-256"):
        _wheel(pinned).fetch()
    assert list(pinned.CACHE.iterdir()) == []
    wheel = _wheel(pinned, b"not what was pinned")
    assert wheel.fetch().read_bytes() == b"not what was pinned"
    assert [path.name for path in pinned.CACHE.iterdir()] == ["a.whl"]
