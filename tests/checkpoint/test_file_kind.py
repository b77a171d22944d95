"""The first bytes say what a file is; the message says so, and what to do."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from libra_d2.checkpoint.file_kind import identify
from libra_d2.checkpoint.safe_load import load_file
from libra_d2.checks import FileError, UserError

STATE = {"weight": torch.arange(6.0).reshape(2, 3)}


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(**members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def packed(*names) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def repacked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    return buffer.getvalue()


def arrays(**content) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

SOUND = {
    "zip": (saved(STATE), "torch"),
    "legacy": (saved(STATE, _use_new_zipfile_serialization=False), "torch"),
    "safetensors": (safetensors.torch.save(STATE), "safetensors"),
    **{f"pickle {p}": (pickle.dumps({"weight": np.ones(3)}, protocol=p), "pickle") for p in range(6)},
    "npz": (arrays(boxes=np.ones(3)), "npz"),
}
OTHER = {
    "lfs": (LFS, "got a Git LFS pointer, which only names the file; run `git lfs pull`"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "got a web page or a server's message; download the file itself"),
    "bom": (b"\xef\xbb\xbf<html></html>", "got a web page"),
    "s3": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "got a web page or a server's message"),
    "script": (script(), "got a TorchScript program; where it was made, write its weights"),
    "tar": (packed("sys_info", "pickle", "tensors", "storages"), "got a tar file of PyTorch 0.1; write it again"),
    "other tar": (packed("a/model.pth"), r"got a tar archive \(a/model.pth\); unpack it"),
    "zip of": (zipped(**{"b/model.pth": b"x"}), "got a zip archive that holds b/model.pth; unpack it"),
    "docx": (zipped(**{"word/document.xml": b"x"}), r"got a zip archive of something else \(word/document.xml\)"),
    "empty zip": (zipped(), r"got a zip archive of something else \(nothing\)"),
    "repacked": (repacked(), "got a checkpoint that was packed again, compressed"),
    "gzip": (gzip.compress(b"x"), "got a gzip archive; unpack it"),
    "bz2": (bz2.compress(b"x"), "got a bzip2 archive; unpack it"),
    "xz": (lzma.compress(b"x"), "got an xz archive; unpack it"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), "got an HDF5 file"),
    "npy": (b"\x93NUMPY\x01\x00", "got a single NumPy array"),
    "image": (b"\x89PNG\r\n\x1a\n", "got a PNG image"),
    "json": (b'{"message": "Not Found"}', 'got a text that begins \'{"message"'),
    "other": (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "that begins 01 02 03 04"),
}


@pytest.mark.parametrize(("content", "kind"), SOUND.values(), ids=SOUND)
@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors", "a"])
def test_sound_files_are_recognised_whatever_their_name(tmp_path, content, kind, name):
    (tmp_path / name).write_bytes(content)
    assert identify(tmp_path / name) == kind


@pytest.mark.parametrize(("content", "message"), OTHER.values(), ids=OTHER)
def test_other_files_are_called_what_they_are(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(FileError, match=message) as raised:
        load_file(tmp_path / "a.pth")
    assert "truncated" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["zip", "legacy", "safetensors", "pickle 0", "pickle 2", "pickle 4", "npz"])
@pytest.mark.parametrize("part", [0, 0.3, 0.7, 0.95])
def test_truncated_files_are_called_so(tmp_path, name, part):
    content = SOUND[name][0]
    (tmp_path / "a.pth").write_bytes(content[: int(part * len(content))])
    with pytest.raises(FileError, match="truncated or damaged"):
        load_file(tmp_path / "a.pth")


class Call:
    def __reduce__(self):
        return print, ("code in a file was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(Call()), "got the global 'print', which is not run"),
        (saved(Call(), _use_new_zipfile_serialization=False), "got the global 'print'"),
        (saved(STATE, pickle_protocol=4), r"got a pickle of protocol 4 \(torch.save by itself writes 2\)"),
        (saved({"model": torch.nn.Linear(1, 1)}), "got the global 'torch.nn.modules.linear.Linear'"),
        (pickle.dumps(Call()), "got the global 'builtins.print'"),
        (pickle.dumps(torch.ones(2)), "got the global 'torch._utils._rebuild_tensor_v2'"),
        (saved({"model": {}}).replace(b"}", b"]", 1), "truncated or damaged"),
    ],
    ids=["zip", "legacy", "protocol", "module", "pickle", "tensors", "checksum"],
)
def test_what_calls_something_is_refused_by_name(tmp_path, capsys, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_file(tmp_path / "a.pth")
    assert "run" not in capsys.readouterr().out
    assert ("damaged" in str(raised.value)) == ("damaged" in message)


def test_a_program_in_a_zip_is_not_called_damaged(tmp_path):
    """Its checksums are right: whoever made it meant it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as source, zipfile.ZipFile(buffer, "w") as out:
        for name in source.namelist():
            data = name.endswith("data.pkl")
            out.writestr(name, b"\x80\x02(Vprint\nibuiltins\nprint\n." if data else source.read(name))
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="nothing of it was loaded") as raised:
        load_file(tmp_path / "a.pth")
    assert "damaged" not in str(raised.value)
