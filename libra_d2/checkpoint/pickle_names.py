"""What a pickle of NumPy arrays may name, and what this project does where the file asks to call it.

Nothing of NumPy or Python is handed to the file: a name is an inert token, and its call is made here, from checked
arguments. NumPy's own constructors would follow pointers out of the data where a dtype claims so, or take addresses.
"""

import collections
import re
from collections.abc import Callable
from types import MappingProxyType

import numpy as np

from libra_d2.checks import UserError

__all__ = [
    "ADMITTED",
    "Dtype",
    "RefusedPickleError",
    "Token",
    "atom",
    "bytes_of",
    "dtype_of",
    "new_array",
    "shape_of",
    "shown",
]

_DTYPE = re.compile(r"[<>=|]?[biufcSU]\d{1,6}")
_ATOMS = (str, bytes, int, float, complex, bool, type(None), np.generic)
_MOST_DIMENSIONS = 32


class RefusedPickleError(UserError):
    """The file is no pickle of NumPy arrays and builtin containers; nothing of it was loaded."""


def shown(value) -> str:
    """A value of the file for a message; containers may be too deep or too large to be shown."""
    return repr(value[:200]) if isinstance(value, str) else f"a {type(value).__name__}"


class Token:
    """What a file gets for a global that it may name: the name, and what calling it does."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable | None):
        self.name = name
        self.call = call


class Dtype:
    """A NumPy dtype; of the state that the file attaches to it only the byte order counts."""

    __slots__ = ("dtype",)

    def __init__(self, code, *flags):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedPickleError(f"expected arrays of numbers or strings, got the dtype {shown(code)}")
        self.dtype = np.dtype(code)

    def set(self, state):
        if len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def dtype_of(value) -> np.dtype:
    """Of a :class:`Dtype` alone."""
    # NumPy's own dtype would do what the file says: claim flags that make NumPy follow pointers out of the data
    if type(value) is not Dtype:
        raise RefusedPickleError(f"expected arrays of numbers or strings, got the dtype {shown(value)}")
    return value.dtype


def bytes_of(data) -> bytes:
    """What is in a bytes, a bytearray, or a str of Python 2; `bytes` itself would also take a length to make up."""
    if not isinstance(data, str | bytes | bytearray):
        raise TypeError(f"{shown(data)} where there should be bytes")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def shape_of(shape) -> tuple[int, ...]:
    """A shape without the negative sizes that NumPy would let pass in pairs."""
    if type(shape) is int:
        shape = (shape,)
    if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape that is none")
    return tuple(shape)


def _frombuffer(data, dtype, shape, order, axis_order=None):
    array = np.frombuffer(bytes_of(data), dtype=dtype_of(dtype)).copy()
    if axis_order is None:
        return array.reshape(shape_of(shape), order=order)
    return array.reshape(shape_of(shape), order="C").transpose(axis_order)


def _scalar(dtype, data):
    return np.frombuffer(bytes_of(data), dtype=dtype_of(dtype))[0]


def new_array(subtype, shape, code):
    """An array that the file fills with its next state."""
    return np.empty(0)


def _no_ndarray(*arguments):
    # NumPy's constructor takes a buffer and an offset, and so addresses, from whoever calls it
    raise RefusedPickleError("expected arrays as NumPy pickles them, got a call of numpy.ndarray")


def _encode(text, encoding="latin1"):
    """`_codecs.encode`, by which old protocols store bytes."""
    if encoding != "latin1":
        raise RefusedPickleError(f"expected bytes stored as latin1, got {shown(encoding)}")
    return text.encode("latin1")


def _bytes(data=b"", encoding=None):
    return bytes_of(data)


def _ordered(pairs=()):
    return collections.OrderedDict((atom(key), value) for key, value in pairs)


def _members(kind):
    return lambda items=(): kind(atom(item) for item in items)


def atom(key):
    """What may be a key of a dict or a member of a set."""
    # a key is hashed, and to hash a tuple of tuples of tuples ... overflows the stack
    if not isinstance(key, _ATOMS):
        raise RefusedPickleError(f"expected texts and numbers as keys, got a {type(key).__name__}")
    return key


_CALLS = {
    ("numpy", "ndarray"): _no_ndarray,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    ("detectron2.structures.boxes", "BoxMode"): atom,  # of proposal files
    **{
        (module, name): call
        for module in ("builtins", "__builtin__")  # Python 3 and, in protocols up to 2, Python 2
        for name, call in (
            ("set", _members(set)),
            ("frozenset", _members(frozenset)),
            ("bytes", _bytes),
            ("bytearray", lambda *arguments: bytearray(_bytes(*arguments))),
            ("complex", complex),
        )
    },
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")  # before and since NumPy 2
        for module, name, call in (
            ("multiarray", "_reconstruct", new_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}
#: by module and name
ADMITTED = MappingProxyType({key: Token(".".join(key), call) for key, call in _CALLS.items()})
