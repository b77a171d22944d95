"""Which libraries of the core are loaded under which torch, and what the one line about it says."""

import logging

import pytest
import torch

from libra_d2.ops import _core

RECORD = {"torch": "2.14.1+cu130", "cuda": "13.0 for 9.0+PTX", "why": ""}
CPU_ALONE = {**RECORD, "cuda": "", "why": "no nvcc was found"}


@pytest.fixture
def load(tmp_path, monkeypatch, caplog):
    """Loads a core as if built so and under such a torch; gives the status, what was loaded and what was logged."""
    monkeypatch.setattr(_core, "PACKAGE", tmp_path)
    monkeypatch.delenv("LIBRA_D2_BACKEND", raising=False)
    for name in ("_loaded", "_status"):
        monkeypatch.setattr(_core, name, getattr(_core, name))

    def load(record, version, cuda, *, broken=(), gpu=False):
        loaded = []

        def load_library(path):
            name = path.rpartition("/")[2]
            if name in broken:
                raise OSError("Could not load this library") from OSError(f"{name}: undefined symbol: torch_new")
            loaded.append(name)

        if record and record["cuda"]:
            (tmp_path / "_core_cuda13.so").touch()
        monkeypatch.setattr(_core, "_read_record", lambda: record)
        monkeypatch.setattr(torch.ops, "load_library", load_library)
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        with caplog.at_level(logging.WARNING, "libra_d2.ops"):
            _core.load()
        return _core.status(), loaded, caplog.messages

    return load


@pytest.mark.parametrize("version", ["2.10.0", "2.14.1+cu130", "3.0.0a0+git1"])
def test_both_libraries_under_a_torch_of_the_same_cuda(load, version):
    expected = ("native (CPU and CUDA 13.0 for 9.0+PTX)", ["_core_cpu.so", "_core_cuda13.so"], [])
    assert load(RECORD, version, "13.2") == expected
    assert _core.loaded()


@pytest.mark.parametrize(
    ("record", "cuda", "why"),
    [
        (RECORD, None, "torch 2.12.0 is built without CUDA"),
        (RECORD, "12.8", "the core was built for CUDA 13.0 and this torch is of CUDA 12.8"),
        (CPU_ALONE, "13.0", "the core was built without CUDA: no nvcc was found"),
    ],
    ids=["a CPU torch", "another CUDA", "CPU alone"],
)
def test_the_cpu_library_alone(load, monkeypatch, record, cuda, why):
    assert load(record, "2.12.0", cuda) == (f"native (CPU; {why})", ["_core_cpu.so"], [])
    monkeypatch.setenv("LIBRA_D2_BACKEND", "native")
    assert load(record, "2.12.0", cuda)[1] == ["_core_cpu.so"]
    with pytest.raises(ImportError, match=f"there is a GPU and {why}"):
        load(record, "2.12.0", cuda, gpu=True)


def test_a_cuda_library_that_does_not_load(load):
    status, loaded, (message,) = load(RECORD, "2.12.0", "13.0", broken=["_core_cuda13.so"])
    reason = "_core_cuda13.so, built with torch 2.14.1+cu130, does not load under torch 2.12.0"
    reason += ": _core_cuda13.so: undefined symbol: torch_new"
    assert status == f"native (CPU; {reason})"
    assert loaded == ["_core_cpu.so"]
    assert message == f"pure-torch ops are used in its place: {reason}"


def test_a_torch_without_the_stable_abi(load):
    reason = "the compiled core needs torch 2.10 or newer and this is torch 2.9.1"
    assert load(RECORD, "2.9.1", "13.0") == (f"torch ({reason})", [], [f"the pure-torch ops are used: {reason}"])
    assert not _core.loaded()


def test_without_a_core_nothing_is_said(load, monkeypatch):
    assert load(None, "2.12.0", "13.0") == ("torch (the compiled core was not built)", [], [])
    monkeypatch.setenv("LIBRA_D2_BACKEND", "native")
    with pytest.raises(ImportError, match="LIBRA_D2_BACKEND=native, but the compiled core was not built"):
        load(None, "2.12.0", "13.0")
