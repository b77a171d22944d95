"""What a file is, by its first bytes: whatever its name says, and before any of it is interpreted."""

import os
import re
import tarfile
import zipfile

from libra_d2.checks import FileError

__all__ = ["identify"]

WEIGHTS = "weights (a .pth of torch.save, a .pkl of NumPy arrays or .safetensors)"

_HEAD = 512
_LEGACY_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the magic number that it pickles first
_PICKLE = re.compile(rb"\x80[\x01-\x05]|\([dlt]|[]})]q\x00|c[\w.]+\n\w+\n")  # protocols 2 to 5, 0 and 1
_UNPACK = "unpack it and name the file that was in it"
_MAGIC = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, which only names the file",
        "run `git lfs pull` where it lies",
    ),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a rar archive", _UNPACK),
    (b"\x89HDF\r\n", "an HDF5 file, e.g. of Keras", "take weights that PyTorch wrote"),
    (b"GGUF", "a GGUF file of a language model", "take weights that PyTorch wrote"),
    (b"\x93NUMPY", "a single NumPy array", "take a file that holds all of them by name"),
    (b"\x89PNG", "a PNG image", "name the file of weights instead"),
    (b"\xff\xd8\xff", "a JPEG image", "name the file of weights instead"),
    (b"\x7fELF", "a program", "name the file of weights instead"),
)


def identify(path: str | os.PathLike, expected: str = WEIGHTS) -> str:
    """Which reader a file is for: "torch", "pickle", "safetensors" or "npz".

    Args:
        path: a local file.
        expected: what it should be, for the message.

    Raises:
        FileError: it cannot be read, is empty, a truncated zip archive, or a file of another kind; the message names
            the kind and what to do.
    """
    try:
        with open(path, "rb") as f:
            head = f.read(_HEAD)
            size = os.fstat(f.fileno()).st_size
    except FileNotFoundError:
        raise FileError(f"{path}: expected {expected}, there is none; check the path") from None
    except IsADirectoryError:
        raise FileError(f"{path}: expected {expected}, got a folder; name the file in it") from None
    except OSError as e:
        raise FileError(f"{path}: expected {expected}, the file cannot be read ({e})") from e
    if not head:
        raise FileError(f"{path} is truncated or damaged, it is empty: expected {expected}; fetch it again")
    if not head.strip(b"\x00"):
        raise FileError(f"{path} is truncated or damaged, it begins with zeros: expected {expected}; fetch it again")
    kind = _kind(path, head, size)
    if isinstance(kind, str):
        return kind
    what, remedy = kind
    raise FileError(f"{path}: expected {expected}, got {what}; {remedy}")


def _kind(path, head: bytes, size: int) -> str | tuple[str, str]:
    """The reader, or what the file is and what to do."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if _LEGACY_TORCH in head[:24]:
        return "torch"
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic):
            return what, remedy
    if head[257:262] == b"ustar":
        return _kind_of_tar(path)
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header < 2**32:
        return "safetensors"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")):
        return "a web page or a server's message", "download the file itself, not the page that shows it"
    if _PICKLE.match(head):
        return "pickle"
    if re.fullmatch(rb"[\t\r\n -~]+", text):
        first = text.split(b"\n")[0][:40].decode()
        return f"a text that begins {first!r}", "name the file of weights, or download it again"
    return f"a file of another kind, or a damaged one, that begins {head[:8].hex(' ')}", "fetch it again"


def _kind_of_zip(path) -> str | tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as e:  # a damaged directory fails in whatever way its bytes happen to say
        raise FileError(
            f"{path} is truncated or damaged ({type(e).__name__}): expected a whole zip archive, as torch.save writes "
            "it; fetch it again"
        ) from None
    names = [member.filename for member in members]
    bare = {name.partition("/")[2] for name in names} | set(names)
    if "constants.pkl" in bare and "data.pkl" in bare and any("code/" in name for name in names):
        return "a TorchScript program", (
            "where it was made, write its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    if "data.pkl" in bare:
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            return "a checkpoint that was packed again, compressed", (
                "torch.save does not compress: take the file as it was written"
            )
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return "a program of torch.export", "take the state dict of the model that it was made from"
    weights = [name for name in names if name.endswith((".pth", ".pt", ".pkl", ".safetensors"))]
    if weights:
        return f"a zip archive that holds {weights[0]}", _UNPACK
    return f"a zip archive of something else ({', '.join(names[:3]) or 'nothing'})", "name the file of weights instead"


def _kind_of_tar(path) -> tuple[str, str]:
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except Exception:  # as above
        names = []
    if {"storages", "tensors", "pickle"} <= set(names):
        return "a tar file of PyTorch 0.1", (
            "write it again where you trust it: torch.save(torch.load(FILE, weights_only=False), NEW_FILE)"
        )
    return f"a tar archive ({', '.join(names[:3]) or 'a damaged one'})", _UNPACK
