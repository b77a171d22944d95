"""Reading pickles that somebody else wrote, weights and proposals, without running what they wrote.

A pickle is a program: it may name any importable object, call it and overwrite its attributes. Weights need NumPy
arrays inside dicts and lists, so the machine below knows the few instructions that build those and refuses the rest.
Only an array or a dtype that the same file has just made takes a state, and all that the machine holds ends with the
file: none can change how the next one is read.
"""

import collections
import io
import os
import pickletools
from types import MappingProxyType

import numpy as np

from libra_d2.checkpoint.pickle_names import (
    ADMITTED,
    Dtype,
    RefusedPickleError,
    Token,
    atom,
    bytes_of,
    dtype_of,
    new_array,
    shape_of,
    shown,
)
from libra_d2.checks import FileError

__all__ = ["RefusedPickleError", "load_pickle"]

_MARK = object()
# What puts its argument on the stack, as pickletools has decoded it
_CONSTANTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_EMPTY = MappingProxyType(
    {
        "NONE": lambda: None,
        "NEWTRUE": lambda: True,
        "NEWFALSE": lambda: False,
        "EMPTY_TUPLE": tuple,
        "EMPTY_LIST": list,
        "EMPTY_DICT": dict,
        "EMPTY_SET": set,
        "MARK": lambda: _MARK,
    }
)


class _Machine:
    """Runs the instructions of one pickle; all of its state ends with it."""

    def __init__(self):
        self.stack = []
        self.memo = {}
        self.unfilled = {}  # arrays by their id, between the call that makes one and the state that fills it
        self.steps = {name[4:].upper(): getattr(self, name) for name in dir(type(self)) if name.startswith("_do_")}

    def load(self, data: bytes):
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            name = opcode.name
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name == "STOP":
                return self.stack.pop()
            elif name in self.steps:
                self.steps[name](argument)
            elif name not in ("PROTO", "FRAME"):
                raise RefusedPickleError(f"expected arrays in builtin containers, got the instruction {name}")
        raise EOFError("no end")

    def _above_mark(self) -> list:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # past the bottom: an IndexError, as for any damage
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _top(self, *kinds: type):
        top = self.stack[-1]
        if type(top) not in kinds:
            raise RefusedPickleError(f"expected to fill a {kinds[0].__name__}, got a {type(top).__name__} to change")
        return top

    def _do_pop(self, _):
        self.stack.pop()

    def _do_pop_mark(self, _):
        self._above_mark()

    def _do_dup(self, _):
        self.stack.append(self.stack[-1])

    def _do_put(self, key):
        self.memo[key] = self.stack[-1]

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def _do_get(self, key):
        self.stack.append(self.memo[key])

    _do_binget = _do_long_binget = _do_get

    def _do_tuple(self, _):
        self.stack.append(tuple(self._above_mark()))

    def _do_tuple1(self, _, count=1):
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError("too few for a tuple")
        del self.stack[-count:]
        self.stack.append(items)

    def _do_tuple2(self, _):
        self._do_tuple1(_, 2)

    def _do_tuple3(self, _):
        self._do_tuple1(_, 3)

    def _do_list(self, _):
        self.stack.append(self._above_mark())

    def _do_dict(self, _):
        items = self._above_mark()
        self.stack.append({})
        self._set(items)

    def _do_frozenset(self, _):
        self.stack.append(frozenset(map(atom, self._above_mark())))

    def _do_append(self, _):
        item = self.stack.pop()
        self._top(list).append(item)

    def _do_appends(self, _):
        items = self._above_mark()
        self._top(list).extend(items)

    def _do_additems(self, _):
        items = self._above_mark()
        self._top(set).update(map(atom, items))

    def _do_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _do_setitems(self, _):
        self._set(self._above_mark())

    def _set(self, items: list):
        target = self._top(dict, collections.OrderedDict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[atom(key)] = value

    def _do_global(self, argument):
        self._name(*argument.split(" ", 1))

    def _do_stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global without a name")
        if (module, name) not in ADMITTED:
            raise RefusedPickleError(
                f"expected NumPy arrays and builtin containers only, got the global {shown(f'{module}.{name}')}"
            )
        self.stack.append(ADMITTED[module, name])

    def _do_reduce(self, _):
        arguments, token = self.stack.pop(), self.stack.pop()
        if type(token) is not Token or type(arguments) is not tuple:
            raise RefusedPickleError(f"expected calls as NumPy pickles them, got a call of a {type(token).__name__}")
        made = token.call(*arguments)
        if token.call is new_array:
            self.unfilled[id(made)] = made
        self.stack.append(made)

    def _do_build(self, _):
        state, target = self.stack.pop(), self.stack[-1]
        if id(target) in self.unfilled:
            self._fill(target, state)
        elif type(target) is Dtype:
            target.set(state)
        elif type(target) is not collections.OrderedDict:  # whose state is a comment, such as torch's versions
            what = target.name if type(target) is Token else type(target).__name__
            raise RefusedPickleError(f"expected states of new arrays, got one for {shown(what)}, which is not changed")

    def _fill(self, array: np.ndarray, state) -> None:
        del self.unfilled[id(array)]  # a second state would free what may be in use
        _, shape, dtype, fortran_order, data = state
        array.__setstate__((1, shape_of(shape), dtype_of(dtype), bool(fortran_order), bytes_of(data)))


def load_pickle(path: str | os.PathLike):
    """Reads a pickle of NumPy arrays and builtin containers, such as Detectron2's model zoo files.

    Strings that Python 2 wrote are decoded as latin1.

    Args:
        path: a local file.

    Returns:
        What was pickled.

    Raises:
        RefusedPickleError: the file names any other global, or would change or call something.
        FileError: it cannot be read, is truncated or damaged, or is no pickle.
    """
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as e:
        raise FileError(f"{path}: expected a file that can be read ({e})") from e
    try:
        return _Machine().load(data)
    except RefusedPickleError as e:
        raise RefusedPickleError(
            f"{path}: {e}; nothing of it was loaded. Convert it where it was made, to a .pth or .safetensors file that "
            "holds tensors only"
        ) from None
    except MemoryError:
        raise
    except Exception as e:  # a damaged pickle fails in whatever way its bytes happen to say
        raise FileError(
            f"{path}: expected a pickle, got a truncated or damaged one ({type(e).__name__}: {str(e)[:100]}); fetch it "
            "again"
        ) from None
