"""The sdist has everything, and nothing that depends on when or where it was made; a wheel can be built from it."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from libra_d2 import __version__

LEFT_OUT = {".ci/run", ".gitignore"}
PURE = f"libra_d2-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def built(make_dist, copy_source, no_core, tmp_path_factory):
    """Two folders with an sdist and a wheel of the same sources, which are of another age and owner-writable alone."""
    folders = []
    for name, umask in (("one", 0o022), ("two", 0o077)):
        folder = tmp_path_factory.mktemp(name)
        before = os.umask(umask)
        source = copy_source(folder / "source")
        os.utime(source / "setup.py", (1, 1_000_000_000 + umask))
        make_dist.build_wheel(make_dist.build_sdist(source, folder), folder)
        os.umask(before)
        folders.append(folder)
    return folders


def _files(folder):
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def test_the_same_sources_give_the_same_bytes(built):
    one, two = map(_files, built)
    assert set(one) == set(two) == {f"libra_d2-{__version__}.tar.gz", PURE}
    assert all(one[name].read_bytes() == two[name].read_bytes() for name in one)


def test_the_sdist_has_all_that_git_has(built, tracked):
    with tarfile.open(_files(built[0])[f"libra_d2-{__version__}.tar.gz"]) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
        assert {member.mtime for member in tar} == {1700000000}
    generated = {name for name in names if re.match(r"(libra_d2\.egg-info/|PKG-INFO$|setup\.cfg$)", name)}
    assert names - generated == tracked - LEFT_OUT


def test_the_wheel_has_the_package_its_configs_and_the_licence(built, tracked):
    with zipfile.ZipFile(_files(built[0])[PURE]) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"libra_d2-{__version__}.dist-info/entry_points.txt").decode()
    info = {name for name in names if ".dist-info/" in name}
    assert f"libra_d2-{__version__}.dist-info/licenses/LICENSE" in info
    package = {name for name in tracked if re.match(r"libra_d2/.*\.(py|typed)$", name)}
    configs = {f"libra_d2/{name}" for name in tracked if re.match(r"configs/.*\.(py|yaml)$", name)}
    assert names - info == package | configs
    assert "libra-d2 = libra_d2.cli.main:main" in entry_points


def test_what_an_index_would_show_is_valid(built):
    files = _files(built[0]).values()
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
