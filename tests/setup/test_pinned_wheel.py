"""A wheel comes from the cache, from wheels/ or from the index, in that order."""

import hashlib
import importlib

import pytest

CONTENT = b"a wheel"


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    module = importlib.import_module("pinned_wheel")
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module, "BY_HAND", tmp_path / "by_hand")
    (tmp_path / "by_hand").mkdir()
    return module


@pytest.fixture
def wheel(pinned):
    return pinned.PinnedWheel("no-such-package", "1.2.3", "a.whl", hashlib.sha256(CONTENT).hexdigest())


def test_a_file_put_there_by_hand_is_used(pinned, wheel):
    path = pinned.BY_HAND / "a.whl"
    path.write_bytes(CONTENT)
    assert wheel.fetch() == path
    pinned.CACHE.mkdir()
    (pinned.CACHE / "a.whl").write_bytes(CONTENT)
    assert wheel.fetch() == pinned.CACHE / "a.whl"


def test_another_content_is_refused(pinned, wheel):
    (pinned.BY_HAND / "a.whl").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="expected SHA-256"):
        wheel.fetch()


def test_a_download_is_kept_in_the_cache(pinned, wheel, monkeypatch):
    def download(self, folder, hint):
        (folder / self.filename).write_bytes(CONTENT)
        return folder / self.filename

    monkeypatch.setattr(pinned.install.PinnedWheel, "download", download)
    assert wheel.fetch() == pinned.CACHE / "a.whl"


def test_a_failed_download_says_where_to_put_the_file(pinned, wheel, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(SystemExit, match=f"a.whl.*Put it into {pinned.BY_HAND} by hand"):
        wheel.fetch()
    assert list(pinned.CACHE.iterdir()) == []


def test_the_detectron2_of_the_package_is_the_one_of_set_up(pinned):
    assert vars(pinned.DETECTRON2) == vars(pinned.install.DETECTRON2)
