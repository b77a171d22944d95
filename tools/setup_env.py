"""Makes the virtual environment that trains, tests and builds libra_d2. Standard library only.

    python3.11 tools/setup_env.py [--venv .venv] [--host-torch]

Every step leaves a stamp in the environment with a hash of what it was made from, and is skipped while that holds.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from pinned_wheel import BY_HAND, DETECTRON2, ROOT, install

CORE = ROOT / "libra_d2" / "_core_*"  # the libraries and the record of the build

BUILD_VARIABLES = ("LIBRA_D2_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "CXX", "CXXFLAGS", "LDFLAGS", "DEBUG")


class Environment:
    """A virtual environment and its stamps.

    Args:
        path: where it is, or will be made.
        host_torch: use the torch of the Python that runs this script, and every other package it has, instead of the
            tested versions. Meant for GPU machines, which come with a torch of their own.
    """

    def __init__(self, path: Path, host_torch: bool):
        self.path = path.absolute()
        self.host_torch = host_torch
        self.python = self.path / "bin" / "python"

    def create(self) -> None:
        if not self._python_is_usable():
            say(f"making {self.path}")
            run([sys.executable, "-m", "venv", "--clear", self.path])
        if self.host_torch:  # --system-site-packages would skip this Python's own packages if it is a venv, too
            (self.site_packages() / "host.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def _python_is_usable(self) -> bool:
        if not self.python.exists():
            return False
        return subprocess.run([self.python, "-m", "pip", "--version"], capture_output=True).returncode == 0

    def site_packages(self) -> Path:
        command = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        return Path(subprocess.check_output(command, text=True).strip())

    def install_requirements(self) -> None:
        project = read_project()
        extras = project["project"]["optional-dependencies"]
        extra = extras["gpu-check" if self.host_torch else "dev"]
        wanted = project["project"]["dependencies"] + extra + project["build-system"]["requires"]
        # SAHI asks for opencv-python, which overwrites the files of opencv-python-headless and needs libGL.
        alone = [] if self.host_torch else extras["tiles"]
        constraints = ROOT / "constraints.txt"
        options = [] if self.host_torch else ["--constraint", constraints]
        if BY_HAND.is_dir():
            options += ["--find-links", BY_HAND]
        if self.host_torch and BY_HAND.is_dir():
            options += ["--no-index"]
        hint = f"Wheels put into {BY_HAND} by hand are found, too."
        with self.step("requirements", [*wanted, *alone, constraints.read_text(), str(self.host_torch)]) as needed:
            if needed:
                free = shutil.disk_usage(ROOT).free / 2**30
                say(f"installing the requirements: PyTorch for CUDA takes 6 GiB, and {free:.0f} are free on this disk")
                self.pip("install", *options, *wanted, hint=hint)
                if alone:
                    self.pip("install", "--no-deps", *options, *alone, hint=hint)

    def install_detectron2(self) -> None:
        """Unpacks the pinned Detectron2 where none can be imported; any other that can be is left alone."""
        find = "import importlib.util as u, sys; sys.exit(u.find_spec('detectron2') is None)"
        if subprocess.run([self.python, "-c", find], cwd=self.path).returncode == 0:
            return
        wheel = DETECTRON2.fetch()
        say(f"installing {DETECTRON2.name}")
        install.install(wheel, self.site_packages())

    def install_package(self) -> None:
        sources = [ROOT / "setup.py"]
        sources += sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".cpp", ".cu", ".h", ".cuh"})
        inputs = [str(ROOT), sys.version, *(f"{name}={os.environ.get(name)}" for name in BUILD_VARIABLES)]
        project = read_project()
        inputs += [repr(project["project"]), repr(project["build-system"]), repr(project["tool"]["setuptools"])]
        inputs += [text for path in sources for text in (str(path), path.read_text())]
        inputs.append((self.path / "stamps" / "requirements").read_text())  # another torch: another build
        # The core lies in the tree, where another environment may have put its own, or `make clean` none.
        with self.step("package", inputs, makes=CORE) as needed:
            if needed:
                say("building and installing libra_d2 (some minutes where the compiled core is built)")
                self.pip("install", "--no-build-isolation", "--no-deps", "--editable", ROOT)

    @contextlib.contextmanager
    def step(self, name: str, inputs: list[str], makes: Path | None = None) -> Iterator[bool]:
        """Yields whether the step has to be done; notes it as done when it ends without an exception.

        It has to be when ``inputs`` or the files that it ``makes``, a pattern, are not those of the last time.
        """
        stamp = self.path / "stamps" / name

        def digest() -> str:
            paths = sorted(makes.parent.glob(makes.name)) if makes else []
            made = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]
            return hashlib.sha256("\0".join([platform.python_version(), *inputs, *made]).encode()).hexdigest()

        needed = not stamp.exists() or stamp.read_text() != digest()
        if needed:
            stamp.unlink(missing_ok=True)
        yield needed
        if needed:
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(digest())

    def pip(self, *arguments: object, hint: str = "") -> None:
        run([self.python, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], hint)


def read_project() -> dict:
    import tomllib  # not before main() has looked at Python's version

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def run(command: list[object], hint: str = "") -> None:
    command = [str(word) for word in command]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit(f"set-up: this command failed: {' '.join(command)}\n{hint}")


def main() -> None:
    if sys.version_info < (3, 11):
        raise SystemExit(
            f"set-up: expected Python 3.11 or newer, got {platform.python_version()}: make PYTHON=... names one"
        )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--host-torch", action="store_true", help="use the torch that this Python already has")
    args = parser.parse_args()

    environment = Environment(args.venv, args.host_torch)
    (ROOT / ".cache").mkdir(exist_ok=True)
    with (ROOT / ".cache" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once: the second waits and finds everything done
        environment.create()
        environment.install_requirements()
        environment.install_detectron2()
        environment.install_package()
    run([environment.python, "-m", "libra_d2.cli", "env", "--brief"])


if __name__ == "__main__":
    main()
