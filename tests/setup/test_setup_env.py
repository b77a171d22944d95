"""Set-up repeats what was interrupted or has changed, and nothing else; Detectron2 appears whole or not at all."""

import importlib
import zipfile

import pytest


@pytest.fixture
def setup_env():
    return importlib.import_module("setup_env")


@pytest.fixture
def environment(setup_env, tmp_path):
    return setup_env.Environment(tmp_path, host_torch=False)


def _needed(environment, *inputs):
    with environment.step("requirements", list(inputs)) as needed:
        return needed


def test_a_step_is_done_once_for_the_same_inputs(environment):
    assert _needed(environment, "torch==1") is True
    assert _needed(environment, "torch==1") is False
    assert _needed(environment, "torch==2") is True
    assert _needed(environment, "torch==1") is True


def test_a_step_that_failed_is_done_again(environment):
    assert _needed(environment, "torch==1") is True
    with pytest.raises(SystemExit), environment.step("requirements", ["torch==2"]):
        raise SystemExit("pip failed")
    assert _needed(environment, "torch==1") is True  # who knows what pip left behind


def test_a_step_is_done_again_where_what_it_made_is_gone_or_another(environment, tmp_path):
    core = tmp_path / "core"

    def needed():
        with environment.step("package", [], makes=tmp_path / "core*") as needed:
            if needed:
                core.write_text("its own")
        return needed

    assert [needed(), needed()] == [True, False]
    core.write_text("that of another environment")
    assert [needed(), needed()] == [True, False]
    core.unlink()
    assert [needed(), needed()] == [True, False]


@pytest.fixture
def wheel(setup_env, tmp_path, monkeypatch):
    path = tmp_path / "detectron2.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("detectron2/__init__.py", "__version__ = '0'")
        archive.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", "another Python's")
        archive.writestr("sal_detectron2-0.7.2.dist-info/METADATA", "")

    class Pinned:
        @staticmethod
        def fetch():
            return path

    monkeypatch.setattr(setup_env, "DETECTRON2", Pinned)
    return path


@pytest.fixture
def bare_environment(environment, setup_env, tmp_path, monkeypatch):
    """An environment whose Python finds Detectron2 only in its own site-packages."""
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    environment.python = tmp_path / "python"
    environment.python.write_text(f"#!/bin/sh\ntest -e {site_packages}/detectron2\n")
    environment.python.chmod(0o755)
    monkeypatch.setattr(environment, "site_packages", lambda: site_packages)
    return environment


def test_detectron2_is_unpacked_without_its_compiled_module(bare_environment, wheel):
    bare_environment.install_detectron2()
    files = {str(path.relative_to(bare_environment.site_packages())) for path in _files(bare_environment)}
    assert files == {"detectron2/__init__.py", "sal_detectron2-0.7.2.dist-info/METADATA"}


def test_a_detectron2_that_can_be_imported_is_left_alone(bare_environment, wheel):
    own = bare_environment.site_packages() / "detectron2"
    own.mkdir()
    (own / "__init__.py").write_text("the user's own")
    bare_environment.install_detectron2()
    assert [path.read_text() for path in _files(bare_environment)] == ["the user's own"]


def test_an_interrupted_unpacking_is_repeated(bare_environment, wheel, setup_env, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup_env.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bare_environment.install_detectron2()
    assert not (bare_environment.site_packages() / "detectron2").exists()
    bare_environment.install_detectron2()
    assert len(_files(bare_environment)) == 2


def _files(environment):
    return [path for path in environment.site_packages().rglob("*") if path.is_file()]
