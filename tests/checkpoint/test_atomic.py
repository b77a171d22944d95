"""A file is there with all of its content, or as it was before."""

import pytest

from libra_d2.checkpoint.atomic import atomic_write


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as f:
        f.write(b"first")

    def write_half():
        with atomic_write(path) as f:
            f.write(b"second, half of it")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_it(tmp_path):
    with atomic_write(tmp_path / "a.bin") as f:
        f.write(b"x")
    assert (tmp_path / "a.bin").stat().st_mode & 0o444 == 0o444
