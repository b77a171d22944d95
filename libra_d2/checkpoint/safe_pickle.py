"""Reading `.pkl` weights that somebody else wrote, without running what they wrote.

A pickle is a program: it may name any importable object and call it. Weights need NumPy arrays inside dicts and lists,
so nothing else is admitted. Not even NumPy's own constructors are handed to the file: its dtype may claim flags that
make NumPy follow pointers out of the data. The arrays are rebuilt here, from numeric dtypes only.
"""

import collections
import io
import pickle

import numpy as np

from libra_d2.checks import FileError, UserError

__all__ = ["RefusedPickleError", "load_pickle"]


class RefusedPickleError(UserError):
    """The file is no pickle of NumPy arrays and builtin containers, or it is damaged."""


class _Dtype:
    """A NumPy dtype by its code, e.g. `f4`; of the state that the file attaches to it only the byte order counts."""

    def __init__(self, code, *flags):
        try:
            self.dtype = np.dtype(code)
        except TypeError:
            self.dtype = np.dtype(object)
        if self.dtype.kind not in "biufcSU":
            raise RefusedPickleError(f"expected arrays of numbers or strings, got the dtype {code!r}")

    def __setstate__(self, state):
        if len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Subtype:
    """Stands for ``numpy.ndarray`` where a file names it as the type to reconstruct. It cannot be called: NumPy's
    constructor takes a buffer and an offset, and so addresses, from whoever calls it.
    """

    def __new__(cls, *arguments):
        raise RefusedPickleError("expected arrays as NumPy pickles them, got a call of numpy.ndarray")


class _Array(np.ndarray):
    """Empty until the file gives it its state, which it may do once: a second one would free what views may show."""

    _is_filled = False

    def __setstate__(self, state):
        if self._is_filled:
            raise RefusedPickleError("expected arrays as NumPy pickles them, got a second state for one array")
        self._is_filled = True
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype):
            raise RefusedPickleError(f"expected arrays of numbers or strings, got the dtype {dtype!r}")
        super().__setstate__((1, shape, dtype.dtype, fortran_order, data))


def _reconstruct(subtype, shape, code):
    return np.ndarray.__new__(_Array, (0,))


def _frombuffer(data, dtype, shape, order, axis_order=None):
    array = np.frombuffer(bytes(data), dtype=dtype.dtype)
    if axis_order is None:
        return array.reshape(shape, order=order)
    return array.reshape(shape, order="C").transpose(axis_order)


def _scalar(dtype, data):
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=dtype.dtype)[0]


def _encode(text, encoding="latin1"):
    """`_codecs.encode`, by which old protocols store bytes."""
    if encoding != "latin1":
        raise RefusedPickleError(f"expected bytes stored as latin1, got {encoding!r}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _Subtype,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{
        (module, c.__name__): c
        for module in ("builtins", "__builtin__")  # Python 3 and, in protocols up to 2, Python 2
        for c in (dict, list, tuple, set, frozenset, bytes, bytearray, complex)
    },
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # before and since NumPy 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise RefusedPickleError(
                f"expected NumPy arrays and builtin containers only, got the global '{module}.{name}'"
            ) from None


def load_pickle(path, *, encoding="latin1"):
    """Reads a pickle of NumPy arrays and builtin containers, such as Detectron2's model zoo files.

    Args:
        path (str or os.PathLike): a local file.
        encoding (str): of the strings that Python 2 wrote.

    Returns:
        What was pickled. Arrays are instances of `np.ndarray`.

    Raises:
        RefusedPickleError: the file names any other global, holds arrays of objects, is truncated or is no pickle.
        FileError: the file cannot be read.
    """
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as e:
        raise FileError(f"{path}: expected a file that can be read ({e})") from e
    try:
        return _Unpickler(io.BytesIO(data), encoding=encoding).load()
    except RefusedPickleError as e:
        raise RefusedPickleError(
            f"{path}: {e}; nothing of it was loaded. Convert it where it was made, to a .pth that holds tensors only."
        ) from None
    except MemoryError:
        raise
    except Exception as e:  # a damaged pickle fails in whatever way its bytes happen to say
        raise RefusedPickleError(
            f"{path}: expected a pickle, got a truncated or damaged one ({type(e).__name__}: {e}); fetch it again."
        ) from None
