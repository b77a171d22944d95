"""`.pkl` files of strangers: arrays come back exactly, everything else is refused by name and never run."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from libra_d2.checkpoint.safe_pickle import RefusedPickleError, load_pickle


def write(path, thing, protocol=2):
    path.write_bytes(pickle.dumps(thing, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(5, dtype=">i8"),
        np.array([], dtype=np.float16),
        np.array(3.5),
        np.array([True, False]),
        np.array(["a", "bc"]),
    ],
    ids=lambda a: f"{a.dtype.str}-{a.shape}",
)
def test_arrays_come_back_exactly(tmp_path, array, protocol):
    got = load_pickle(write(tmp_path / "a.pkl", {"model": {"w": array}, "__author__": "x"}, protocol))
    assert got["__author__"] == "x"
    w = got["model"]["w"]
    assert isinstance(w, np.ndarray)
    assert w.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")  # NumPy itself turns big-endian arrays round
    assert w.shape == array.shape
    np.testing.assert_array_equal(w, array)


def test_containers_and_scalars_come_back(tmp_path):
    thing = collections.OrderedDict(a=[1, (2.5, None)], b={"x"}, c=frozenset([b"y"]), d=bytearray(b"z"), e=1 + 2j)
    thing["f"] = np.float32(0.5)
    assert load_pickle(write(tmp_path / "a.pkl", thing)) == thing


def test_arrays_feed_torch(tmp_path):
    array = load_pickle(write(tmp_path / "a.pkl", np.arange(6, dtype=np.float32).reshape(2, 3)))
    torch.testing.assert_close(torch.as_tensor(array), torch.arange(6.0).reshape(2, 3))


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_is_named_and_not_run(tmp_path, protocol):
    marker = tmp_path / "was_run"
    path = write(tmp_path / "a.pkl", {"model": Attack(marker)}, protocol)
    with pytest.raises(RefusedPickleError, match=r"a\.pkl: .*got the global '(posix|nt)\.mkdir'.*Convert it"):
        load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "thing",
    [getattr, eval, np.load, torch.Size([1]), collections.Counter("a")],
    ids=lambda t: type(t).__name__ + str(t)[:12],
)
def test_other_globals_are_refused(tmp_path, thing):
    with pytest.raises(RefusedPickleError, match="got the global"):
        load_pickle(write(tmp_path / "a.pkl", thing))


def test_arrays_of_objects_are_refused(tmp_path):
    with pytest.raises(RefusedPickleError, match="expected arrays of numbers or strings, got the dtype 'O"):
        load_pickle(write(tmp_path / "a.pkl", np.array([{}, None], dtype=object)))


class Forged:
    """An array of objects whose dtype denies it: real NumPy would take the eight bytes for a pointer."""

    def __reduce__(self):
        rebuild, _, _ = np.zeros(1).__reduce__()
        return rebuild, (np.ndarray, (0,), b"b"), (1, (1,), ForgedDtype(), False, b"\x41" * 8)


class ForgedDtype:
    def __reduce__(self):
        return np.dtype, ("f8", False, True), (3, "|", None, None, None, -1, -1, 63)


def test_flags_of_a_dtype_are_ignored(tmp_path):
    got = load_pickle(write(tmp_path / "a.pkl", Forged()))
    assert got.dtype == np.float64
    assert got.tobytes() == b"\x41" * 8


@pytest.mark.parametrize("arguments", [((1,), "O", b"A" * 8), ((4,), "u1", bytearray(8), -64), ((1,),)])
def test_numpys_own_constructor_cannot_be_called(tmp_path, arguments):
    """It takes addresses: of objects in a buffer, or of a buffer's neighbours."""

    class Call:
        def __reduce__(self):
            return np.ndarray, arguments

    with pytest.raises(RefusedPickleError, match=r"got a call of numpy\.ndarray"):
        load_pickle(write(tmp_path / "a.pkl", Call()))


def test_an_array_is_filled_once(tmp_path):
    """The first data would be freed while a row of it may be in use."""
    array = np.arange(6.0).reshape(2, 3)
    state = pickle.dumps(array.__reduce__()[2], protocol=2).removeprefix(b"\x80\x02").removesuffix(b".")
    once = pickle.dumps(array, protocol=2).removesuffix(b".")
    (tmp_path / "a.pkl").write_bytes(once + state + b"b.")
    with pytest.raises(RefusedPickleError, match="got a second state for one array"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("size", [0, 1, 40, 150, -1])
def test_truncated_files_are_called_so(tmp_path, size):
    path = write(tmp_path / "a.pkl", {"model": {"w": np.arange(100.0)}})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RefusedPickleError, match="truncated or damaged"):
        load_pickle(path)


def test_python_2_strings(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}q\x00U\x03blbq\x01U\x02\xe9\xffq\x02s.")
    assert load_pickle(path) == {"blb": "\xe9\xff"}
