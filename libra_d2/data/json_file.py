"""Reading json files as people have them: with a byte order mark, in UTF-16, or damaged."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator

from detectron2.utils.file_io import PathManager

from libra_d2.checks import FileError, UserError


def read_bytes(json_file: str) -> bytes:
    """The content of a file or URL.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with PathManager.open(json_file, "rb") as f:
            return f.read()
    except OSError as e:
        raise FileError(f"{json_file}: expected a COCO json file that can be read ({e})") from e


def parse(raw: bytes) -> object:
    """What a json file in UTF-8, UTF-16 or UTF-32 says, with or without a byte order mark.

    Raises:
        ValueError: it is no json file.
    """
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(json_file: str) -> dict:
    """The object in a json file; an empty one where it holds something else.

    Raises:
        FileError: the file cannot be read.
        UserError: it is no json file.
    """
    raw = read_bytes(json_file)
    try:
        content = parse(raw)
    except ValueError as e:
        raise UserError(f"{json_file}: expected a COCO json file, but it cannot be parsed ({e})") from e
    return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def in_plain_utf8(json_file: str) -> Iterator[str]:
    """A file of the same content that ``json.load(open(...))`` reads, as pycocotools does.

    It is ``json_file`` itself, or a temporary copy where that has a byte order mark or is in UTF-16.
    """
    with PathManager.open(json_file, "rb") as f:
        if json.detect_encoding(f.read(4)) == "utf-8":
            yield json_file
            return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(json_file))
        with open(copy, "w", encoding="ascii") as f:
            json.dump(read_json(json_file), f)
        yield copy
