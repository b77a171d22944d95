"""An environment with libra_d2's requirements and nothing more: no Detectron2, no compilers, no source tree."""

import os
import subprocess
import sys
from pathlib import Path

from libra_d2 import __version__
from tests.end_to_end.workplace import LIBRA
from tests.engine.tiny import write_config, write_dataset

TRAIN = ("train", "--config-file", "tiny.yaml", "--train-json", "train/annotations.json", "--train-images")
TRAIN += ("train/images", "--val-json", "val/annotations.json", "--val-images", "val/images")
WITHHELD = ("detectron2", "sal_detectron2", "libra_d2", "__editable__", "pip")


class BareEnvironment:
    """A virtual environment in ``folder``/env that sees this Python's packages, but for those withheld.

    Commands run in ``folder``/work, where small data and a config are, with the environment's own programs as the only
    ones in the PATH.
    """

    def __init__(self, folder: Path):
        self.work, self.bin = folder / "work", folder / "env" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        write_dataset(self.work / "train")
        write_dataset(self.work / "val", 3, seed=1)
        write_config(self.work / "tiny.yaml", MODEL=LIBRA, SOLVER={"MAX_ITER": 2}, OUTPUT_DIR="out")
        packages = folder / "packages"
        packages.mkdir()
        for entry in (Path(path) for path in sys.path if path.endswith("site-packages")):
            for package in entry.iterdir():
                link = packages / package.name
                if not package.name.startswith(WITHHELD) and not link.exists():
                    link.symlink_to(package)
        (self.site_packages() / "packages.pth").write_text(f"{packages}\n")

    def site_packages(self) -> Path:
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        return Path(subprocess.check_output([self.bin / "python", "-c", code], text=True).strip())

    def pip_install(self, file: Path, *options: str, **environment: str) -> str:
        """Installs a file with its requirements, which have to be there already; compilers are in the PATH."""
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.bin / "python",
            "install",
            "--no-index",
            *options,
            file,
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.work, env={**os.environ, **environment})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *command: object, fails: bool = False) -> str:
        """Runs a program of the environment; returns what it printed."""
        program, *arguments = map(str, command)
        kept = {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.work,
            env={**kept, "PATH": str(self.bin), "HOME": str(self.work), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert bool(done.returncode) == fails, done.stdout
        return done.stdout

    def begin(self, detectron2: Path) -> dict[str, str]:
        """Does what a newcomer does first, from the missing Detectron2 to a trained model; returns the bug report."""
        assert "Detectron2 is not installed" in self.run("libra-d2", "train", "--help", fails=True)
        assert "installed sal-detectron2" in self.run("libra-d2", "install-detectron2", "--wheel", detectron2)
        facts = dict(line.split(None, 1) for line in self.run("libra-d2", "env").splitlines() if " " in line)
        assert facts["libra_d2"] == f"{__version__} ({self.site_packages() / 'libra_d2'})"
        assert facts["compilers"] == "no g++, no nvcc"
        assert facts["detectron2"].endswith(f"({self.site_packages() / 'detectron2'})")
        assert "0 errors" in self.run("libra-d2", "check", "train/annotations.json", "train/images")
        self.run("libra-d2", *TRAIN)
        assert (self.work / "out" / "model_final.pth").exists()
        return facts
