"""The pinned Detectron2 appears whole or not at all, never over another, and pip knows it."""

import importlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from libra_d2.checks import FileError
from libra_d2.install import DETECTRON2, detectron2, find, install, missing_requirements

ROOT = Path(__file__).parents[2]
METADATA = (
    "Metadata-Version: 2.1\nName: sal-detectron2\nVersion: 0.7.2\nRequires-Dist: yacs>=0.1.8\nRequires-Dist: numpy<2\n"
)
INFO = "sal_detectron2-0.7.2.dist-info"
INSTALLED = {"detectron2/__init__.py", "detectron2/a/b.py"} | {
    f"{INFO}/{name}" for name in ("INSTALLER", "METADATA", "RECORD", "WHEEL", "top_level.txt")
}


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "detectron2.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("detectron2/__init__.py", "__version__ = '0'")
        archive.writestr("detectron2/a/b.py", "")
        archive.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", "another Python's")
        archive.writestr("tools/train_net.py", "an example")
        for name, content in (("METADATA", METADATA), ("WHEEL", "Tag: cp310-cp310-linux_x86_64"), ("RECORD", "")):
            archive.writestr(f"{INFO}/{name}", content)
        archive.writestr(f"{INFO}/top_level.txt", "detectron2\ntools\n")
    return path


@pytest.fixture
def site_packages(tmp_path):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def _files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_package_and_its_metadata_are_unpacked_and_nothing_else(wheel, site_packages):
    install(wheel, site_packages)
    assert _files(site_packages) == INSTALLED
    metadata = site_packages / INFO
    assert "Requires-Dist: numpy\nRequires-Dist: setuptools<81\n" in (metadata / "METADATA").read_text()
    assert "Tag: py3-none-any\n" in (metadata / "WHEEL").read_text()
    lines = (metadata / "RECORD").read_text().splitlines()
    assert {line.split(",")[0] for line in lines} == INSTALLED
    assert f"{INFO}/INSTALLER,sha256=" in "".join(lines)


@pytest.mark.parametrize("content", ["__init__.py", "setup.py"])  # a package, and a clone of the repository
def test_what_is_there_is_left_alone(content, wheel, site_packages):
    (site_packages / "detectron2").mkdir()
    (site_packages / "detectron2" / content).write_text("the user's own")
    with pytest.raises(FileError, match="detectron2: expected nothing there, got another Detectron2"):
        install(wheel, site_packages)
    assert _files(site_packages) == {f"detectron2/{content}"}


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_that_breaks_leaves_nothing(step, error, wheel, site_packages, monkeypatch):
    calls = []
    replace = detectron2.os.replace

    def fails(*args):
        calls.append(args)
        if len(calls) == step:
            raise error
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(detectron2.os, "replace", fails)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
            install(wheel, site_packages)
    assert len(calls) == step
    assert list(site_packages.iterdir()) == []
    install(wheel, site_packages)
    assert _files(site_packages) == INSTALLED


def test_what_a_killed_run_left_is_cleared_away(wheel, site_packages):
    """Killed between its two renames: the metadata are there, the package is not."""
    for file in (f"{detectron2.UNFINISHED}/detectron2/half.py", f"{INFO}/OLD"):
        (site_packages / file).parent.mkdir(parents=True)
        (site_packages / file).touch()
    install(wheel, site_packages)
    assert _files(site_packages) == INSTALLED


def test_of_two_runs_at_once_one_installs_and_the_other_says_that_it_is_there(wheel, site_packages, monkeypatch):
    unpack, errors = detectron2._unpack, []
    inside, go_on = threading.Event(), threading.Event()

    def slowly(*args):
        inside.set()
        go_on.wait(10)
        unpack(*args)

    def second():
        try:
            install(wheel, site_packages)
        except FileError as error:
            errors.append(error)

    monkeypatch.setattr(detectron2, "_unpack", slowly)
    threads = [threading.Thread(target=install, args=(wheel, site_packages)), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 1
    assert _files(site_packages) == INSTALLED


def test_a_folder_that_cannot_be_written_to_is_named(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(detectron2, "_unpack", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(FileError, match=r"cannot be written to \(no\); nothing was changed"):
        install(wheel, tmp_path)


def test_a_clone_of_the_repository_in_the_current_folder_is_no_detectron2(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    importlib.invalidate_caches()
    assert find() is None
    (tmp_path / "detectron2" / "__init__.py").write_text('__version__ = "0.6"\n')
    importlib.invalidate_caches()
    assert find() == f"0.6 ({tmp_path / 'detectron2'})"


def test_requirements_that_are_missing_are_named_as_pip_takes_them(monkeypatch):
    assert missing_requirements() == []
    find_spec = detectron2.importlib.util.find_spec
    gone = ("PIL", "pkg_resources")
    monkeypatch.setattr(detectron2.importlib.util, "find_spec", lambda name: None if name in gone else find_spec(name))
    assert missing_requirements() == ["pillow", "setuptools<81"]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has nothing, not even pip."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def _libra_d2(python, *args):
    command = [python, "-m", "libra_d2.cli", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def _pip(python, *args):
    command = [sys.executable, "-m", "pip", "--python", python, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_command_on_a_bare_python(bare_python, pinned_detectron2, tmp_path):
    other = tmp_path / "other.whl"
    other.write_bytes(b"another wheel")
    done = _libra_d2(bare_python, "install-detectron2", "--wheel", other)
    assert done.returncode == 1
    assert done.stderr.startswith(f"libra-d2 install-detectron2: error: {other}: expected SHA-256 {DETECTRON2.sha256}")

    done = _libra_d2(bare_python, "train")
    assert done.returncode == 1
    assert done.stderr == (
        "libra-d2 train: error: Detectron2 is not installed; this installs it: libra-d2 install-detectron2\n"
    )

    done = _libra_d2(bare_python, "install-detectron2", "--wheel", pinned_detectron2)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("installed sal-detectron2: Detectron2 0.7.2 (")
    assert second.startswith("Detectron2 also needs: pip install ")
    assert '"setuptools<81"' in second
    assert "sal-detectron2 0.7.2" in " ".join(_pip(bare_python, "list").split())

    done = _libra_d2(bare_python, "install-detectron2")  # which needs no network, as there is nothing to do
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Detectron2 0.7.2 (")
    assert "nothing to install" in done.stdout

    _pip(bare_python, "uninstall", "--yes", "sal-detectron2")
    site_packages = subprocess.check_output(
        [bare_python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    assert list(Path(site_packages.strip()).iterdir()) == []
