"""Set-up repeats what was interrupted or has changed, and nothing else."""

import importlib

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


@pytest.mark.parametrize("host_torch", [False, True])
def test_sahi_does_not_bring_another_opencv(setup_env, tmp_path, monkeypatch, host_torch):
    environment, calls = setup_env.Environment(tmp_path, host_torch), []
    monkeypatch.setattr(environment, "pip", lambda *arguments, **_: calls.append(list(arguments)))
    environment.install_requirements()
    environment.install_requirements()
    assert "opencv-python-headless" in calls[0]
    assert "sahi" not in calls[0]
    assert [call[1] for call in calls[1:]] == ([] if host_torch else ["--no-deps"])
    assert all(call[-2:] == ["sahi", "shapely"] for call in calls[1:])


@pytest.fixture
def bare_environment(environment, tmp_path, monkeypatch):
    """An environment whose Python finds Detectron2 only in its own site-packages."""
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    environment.python = tmp_path / "python"
    environment.python.write_text(f"#!/bin/sh\ntest -e {site_packages}/detectron2\n")
    environment.python.chmod(0o755)
    monkeypatch.setattr(environment, "site_packages", lambda: site_packages)
    return environment


def test_detectron2_is_installed_where_none_can_be_imported(bare_environment, setup_env, monkeypatch):
    class Pinned:
        name = "a-detectron2"

        @staticmethod
        def fetch():
            return "its wheel"

    def install(wheel, site_packages):
        (site_packages / "detectron2").write_text(f"unpacked from {wheel}")

    monkeypatch.setattr(setup_env, "DETECTRON2", Pinned)
    monkeypatch.setattr(setup_env.install, "install", install)
    bare_environment.install_detectron2()
    assert (bare_environment.site_packages() / "detectron2").read_text() == "unpacked from its wheel"


def test_a_detectron2_that_can_be_imported_is_left_alone(bare_environment, setup_env, monkeypatch):
    monkeypatch.setattr(setup_env, "DETECTRON2", None)  # not even fetched
    (bare_environment.site_packages() / "detectron2").write_text("the user's own")
    bare_environment.install_detectron2()
    assert (bare_environment.site_packages() / "detectron2").read_text() == "the user's own"
