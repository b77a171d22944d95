"""Hypothesis strategies for files that nobody wrote in good faith."""

import io
import json
import pickle
import zipfile

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from libra_d2.checkpoint.pickle_names import ADMITTED
from libra_d2.data.proposals import write_npz

ARRAYS = {"model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.float64(2)}, "__author__": "x"}
TENSORS = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "iteration": 3}
PROPOSALS = {
    "ids": [1, 2],
    "boxes": [np.ones((2, 4), np.float32), np.zeros((0, 4), np.float32)],
    "objectness_logits": [np.ones(2, np.float32), np.zeros(0, np.float32)],
    "bbox_mode": 0,
}


def _torch(**options) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, **options)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    write_npz(PROPOSALS, buffer)
    return buffer.getvalue()


PICKLES = [pickle.dumps(thing, protocol=p) for thing in (ARRAYS, PROPOSALS) for p in (0, 2, 4, 5)]
ZIP, LEGACY = _torch(), _torch(_use_new_zipfile_serialization=False)
SAFETENSORS, NPZ = safetensors.torch.save(TENSORS["model"], {"class_names": '["a"]'}), _npz()
SOUND = [*PICKLES, ZIP, LEGACY, SAFETENSORS, NPZ]


@st.composite
def mutated(draw, sources: list[bytes]) -> bytes:
    """A sound file with a few bytes changed, repeated, left out, put in, or taken from another."""
    content = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 40]))
        match draw(st.sampled_from(["flip", "set", "insert", "delete", "repeat", "splice", "cut", "swap"])):
            case "flip":
                content[at : at + 1] = bytes(b ^ (1 << draw(st.integers(0, 7))) for b in content[at : at + 1])
            case "set":
                content[at : at + length] = draw(st.sampled_from([b"\x00", b"\xff", b"\x7f", b"."])) * length
            case "insert":
                content[at:at] = draw(st.binary(min_size=1, max_size=9) | st.sampled_from(SNIPPETS))
            case "delete":
                del content[at : at + length]
            case "repeat":
                content[at:at] = content[at : at + length] * draw(st.sampled_from([1, 3, 1000]))
            case "splice":
                other = draw(st.sampled_from(SOUND))
                start = draw(st.integers(0, len(other)))
                content[at:] = other[start:]
            case "cut":
                del content[at:]
            case "swap":
                content[at : at + length] = reversed(content[at : at + length])
    return bytes(content)


def _texts(*texts: str) -> list[bytes]:
    return [b"X" + len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts]


def _global(module: str, name: str) -> list[bytes]:
    return [f"c{module}\n{name}\n".encode(), b"".join(_texts(module, name)) + b"\x93"]


_HOSTILE = [("os", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("numpy", "load"), ("builtins", "object")]
_TORCH = [("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("torch", "Size"), ("torch", "device")]
_ARRAY = pickle.dumps(np.ones(2, np.float32), protocol=2)[2:-1]
SNIPPETS = [
    *(token for names in [*ADMITTED, *_HOSTILE, *_TORCH] for token in _global(*names)),
    *_texts("f4", "O8", "U9", "<", "w", "model", "__dict__", "__defaults__", "__class__", "__setstate__", "latin1"),
    *b"N ) ] } ( . 0 1 2 a b e s u t l d R o Q".split(),
    *(bytes([code]) for code in range(0x80, 0x99)),
    *(b"q" + bytes([i]) for i in range(4)),
    *(b"h" + bytes([i]) for i in range(4)),
    b"r\xff\xff\xff\xff", b"j\x00\x00\x00\x00", b"p0\n", b"g0\n", b"Pid\n", b"ibuiltins\nset\n", b"I01\n",
    b"V\\u0041\n",
    b"K\x01", b"K\x00", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 8, b"G" + b"\x7f" * 8,
    b"C\x08" + b"A" * 8, b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x96\x08" + bytes(15), b"B\xff\xff\xff\x7f", b"U\x02ab",
    b"\x82\x01", b"\x95" + bytes(8), _ARRAY, _ARRAY + _ARRAY + b"b",
    b"(K\x01K\x02\x85h\x00I00\nC\x08" + bytes(8) + b"tb",
]  # fmt: skip


def programs() -> st.SearchStrategy[bytes]:
    """Pickles put together from instructions that make sense, in an order that does not."""
    return st.lists(st.sampled_from(SNIPPETS), max_size=25).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")


def in_a_zip(program: bytes) -> bytes:
    """A checkpoint of torch.save with another program, its checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ZIP)) as source, zipfile.ZipFile(buffer, "w") as out:
        for name in source.namelist():
            out.writestr(name, program if name.endswith("data.pkl") else source.read(name))
    return buffer.getvalue()


_SIZES = st.sampled_from([-1, 0, 1, 2, 3, 6, 2**31, 2**63, 2**64, "a", None, 1.5])
_TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "I8", "BOOL", "F8_E4M3", "F4", "C64", "x", None]),
        "shape": st.lists(_SIZES, max_size=4),
        "data_offsets": st.lists(_SIZES, max_size=3) | st.just([0, 24]),
        "more": st.just(1),
    },
)


def safetensors_files() -> st.SearchStrategy[bytes]:
    """Headers that are json, and say something else than what follows them."""
    header = st.dictionaries(
        st.sampled_from(["w", "", "__metadata__", "a" * 300]), _TENSOR | st.dictionaries(st.text(max_size=3), _SIZES)
    )

    def whole(header, length, data):
        text = json.dumps(header).encode()
        return (len(text) if length is None else length).to_bytes(8, "little") + text + data

    return st.builds(whole, header, st.none() | st.sampled_from([0, 1, 2**32 - 1, 2**31]), st.binary(max_size=32))
