"""No file, whatever is in it, does anything but be read or be refused in one sentence."""

import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given

from libra_d2.checkpoint import LibraCheckpointer
from libra_d2.checkpoint.safe_load import load_file, load_pickle
from libra_d2.checks import UserError
from libra_d2.data.proposals import read_proposals
from libra_d2.mmdet.reader import read_mmdet
from tests.fuzz import hostile
from tests.fuzz.budget import budget, little_memory

GOOD = pickle.dumps({"w": np.arange(9, dtype=np.float32).reshape(3, 3), "s": np.float32(2)}, protocol=5)
DANGEROUS = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "pickle.find_class", "code.__new__")
HARMLESS = ("os.listdir", "os.scandir", "os.fwalk", "os.walk")
_watched: list[str] | None = None


def _audit(event: str, arguments) -> None:
    if _watched is None or event in HARMLESS or not event.startswith(DANGEROUS):
        return
    if event != "exec" or arguments[0].co_filename.startswith("<"):  # not: a module that is imported on its first use
        _watched.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    (path / "good.pkl").write_bytes(GOOD)
    load_pickle(path / "good.pkl")
    for i, content in enumerate(hostile.SOUND):  # imports what is imported on the first use
        (path / "sound").write_bytes(content)
        if content is not hostile.NPZ:
            load_file(path / "sound")
        assert i < 100
    return path


def refused_or_read(read, path, content) -> None:
    """Reads a file of this content; neither may anything be called by it, nor may later files read differently."""
    global _watched
    path.write_bytes(content)
    _watched, said = [], ""
    try:
        with little_memory():
            read(path)
    except UserError as error:
        said = str(error)
    finally:
        events, _watched = _watched, None
    assert not events
    assert "\n" not in said
    assert len(said) < 1500
    again = load_pickle(path.parent / "good.pkl")
    assert again["w"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    assert again["s"] == 2


@budget()
@given(content=hostile.programs())
def test_programs_as_pickles(folder, content):
    refused_or_read(load_pickle, folder / "a.pkl", content)


@budget()
@given(content=hostile.mutated(hostile.PICKLES))
def test_mutated_pickles(folder, content):
    refused_or_read(load_pickle, folder / "a.pkl", content)


@budget(0.3)
@given(content=hostile.programs().map(hostile.in_a_zip))
def test_programs_in_checkpoints(folder, content):
    refused_or_read(load_file, folder / "a.pth", content)


@budget(0.5)
@given(content=hostile.mutated(hostile.SOUND))
def test_mutated_files(folder, content):
    refused_or_read(load_file, folder / "a.pth", content)


@budget(0.5)
@given(content=hostile.safetensors_files())
def test_headers_of_safetensors(folder, content):
    refused_or_read(load_file, folder / "a.safetensors", content)


@budget(0.5)
@given(content=hostile.mutated([hostile.NPZ, *hostile.PICKLES[4:]]))
def test_mutated_proposals(folder, content):
    refused_or_read(lambda path: read_proposals(str(path)), folder / "p.npz", content)


def _as_weights(path):
    LibraCheckpointer(torch.nn.ModuleDict({"w": torch.nn.Linear(3, 2)})).load(str(path))


@budget(0.2)
@given(content=hostile.mutated(hostile.SOUND))
def test_mutated_weights(folder, content):
    refused_or_read(_as_weights, folder / "w.pth", content)


@budget(0.2)
@given(content=hostile.mutated([hostile.ZIP, hostile.LEGACY, hostile.SAFETENSORS]))
def test_mutated_weights_of_mmdetection(folder, content):
    refused_or_read(read_mmdet, folder / "m.pth", content)
