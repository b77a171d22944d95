"""`.pkl` files of strangers: arrays come back exactly, everything else is refused by name and never run."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from libra_d2.checkpoint.safe_pickle import RefusedPickleError, load_pickle
from libra_d2.checks import FileError


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
    with pytest.raises(RefusedPickleError, match="got one for 'ndarray', which is not changed"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("size", [0, 1, 40, 150, -1])
def test_truncated_files_are_called_so(tmp_path, size):
    path = write(tmp_path / "a.pkl", {"model": {"w": np.arange(100.0)}})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FileError, match="truncated or damaged"):
        load_pickle(path)


def test_python_2_strings(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}q\x00U\x03blbq\x01U\x02\xe9\xffq\x02s.")
    assert load_pickle(path) == {"blb": "\xe9\xff"}


FROMBUFFER = b"cnumpy._core.numeric\n_frombuffer\n"
DEFAULTS = b"N}V__defaults__\n(K\x01K\x00t\x85s\x86"  # (None, {"__defaults__": ((1, 0),)})


@pytest.mark.parametrize(
    "program",
    [
        FROMBUFFER + DEFAULTS + b"b0}.",  # the state of a function of the reader
        b"cnumpy\ndtype\n" + DEFAULTS + b"b0}.",
        b"ccollections\nOrderedDict\n" + DEFAULTS + b"b0}.",
        b"cnumpy\nndarray\n}V_is_filled\nI01\nsb0}.",
        b"cbuiltins\nset\n}b0}.",
        b"(cnumpy\ndtype\nVf4\no.",  # OBJ
        b"(Vf4\ninumpy\ndtype\n.",  # INST
        b"cnumpy\ndtype\nVf4\n\x85\x81.",  # NEWOBJ
        b"cnumpy\ndtype\nVf4\n\x85}\x92.",  # NEWOBJ_EX
        b"Pname\n.",  # PERSID
        b"\x82\x01.",  # EXT1
        b"\x97.",  # NEXT_BUFFER
        b"Vtext\n)R.",  # a call of something that is no name
        FROMBUFFER + b"V__code__\nN\x86R.",
        FROMBUFFER + b"Vx\nNs.",  # SETITEM on a function
        FROMBUFFER + b"Na.",  # APPEND
        FROMBUFFER + b"(N\x90.",  # ADDITEMS
    ],
    ids=range(17),
)
def test_nothing_that_a_file_can_name_is_changed_or_made(tmp_path, program):
    good = write(tmp_path / "good.pkl", {"w": np.arange(9, dtype=np.float32).reshape(3, 3)}, 5)
    before = load_pickle(good)["w"].tolist()
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04" + program)
    with pytest.raises((RefusedPickleError, FileError)):
        load_pickle(tmp_path / "bad.pkl")
    assert load_pickle(good)["w"].tolist() == before


def test_a_state_dict_keeps_its_order_and_loses_its_attributes(tmp_path):
    state = collections.OrderedDict(b=np.zeros(1), a=np.ones(1))
    state.note = "an attribute"
    got = load_pickle(write(tmp_path / "a.pkl", state))
    assert list(got) == ["b", "a"]
    assert not hasattr(got, "note")


@pytest.mark.parametrize("callee", [b"cbuiltins\nbytes\n", b"cbuiltins\nbytearray\n"])
def test_no_memory_is_taken_for_a_number(tmp_path, callee):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + callee + b"J\xff\xff\xff\x7f\x85R.")
    with pytest.raises(FileError):
        load_pickle(tmp_path / "a.pkl")


def test_deep_keys_are_refused_before_they_are_hashed(tmp_path):
    """Python's hash of a tuple recurses in C: a million of them, each in the next, would end the process."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns.")
    with pytest.raises(RefusedPickleError, match="expected texts and numbers as keys, got a tuple"):
        load_pickle(tmp_path / "a.pkl")


def test_shapes_are_not_negative(tmp_path):
    """Two negative sizes have a positive product."""
    array = pickle.dumps(np.zeros((2, 3), np.float32), protocol=2)
    assert b"K\x02K\x03\x86" in array
    forged = array.replace(b"K\x02K\x03\x86", b"J\xfe\xff\xff\xffJ\xfd\xff\xff\xff\x86")
    (tmp_path / "a.pkl").write_bytes(forged)
    with pytest.raises(FileError):
        load_pickle(tmp_path / "a.pkl")
