"""`make quickstart` after set-up: data, training, pictures. Prints every command, so that you can run it yourself."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time

from pinned_wheel import ROOT

CONFIG = "configs/quickstart/libra_faster_rcnn_trees.yaml"
DATA = ".cache/quickstart"
OUTPUT = "output/quickstart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--started", type=float, default=time.time(), help="when the clock started, seconds since 1970")
    started = parser.parse_args().started

    prepare = ("tools/prepare_quickstart.py", "--output", DATA)
    run(f"python {shlex.join(prepare)}", *prepare)
    flags = ["--train-json", f"{DATA}/trees_train.json", "--train-images", f"{DATA}/trees_train"]
    flags += ["--val-json", f"{DATA}/trees_val.json", "--val-images", f"{DATA}/trees_val"]
    described = ["--config-file", CONFIG, *flags, "OUTPUT_DIR", OUTPUT]

    weights = ["MODEL.WEIGHTS", f"{OUTPUT}/model_final.pth"]
    stamp, digest = ROOT / OUTPUT / "stamp", fingerprint()
    if stamp.exists() and stamp.read_text() == digest:
        print(f"{OUTPUT}/model_final.pth is up to date: evaluating it (remove {OUTPUT} to train again)", flush=True)
        libra_d2("eval", *described, *weights)
    else:
        shutil.rmtree(ROOT / OUTPUT, ignore_errors=True)
        libra_d2("train", *described)
    pictures = ["--config-file", f"{OUTPUT}/config.yaml", "--output"]
    libra_d2("plot", "balance", *pictures, OUTPUT, "--max-images", "60", *weights)
    libra_d2("plot", "detections", *pictures, f"{OUTPUT}/detections.png", *weights)
    stamp.write_text(digest)

    seconds = round(time.time() - started)
    final = json.loads((ROOT / OUTPUT / "metrics.json").read_text().splitlines()[-1])
    print(
        f"\nbbox AP {final['bbox/AP']:.1f}, AP50 {final['bbox/AP50']:.1f} on trees_val; the whole COCO table is above."
    )
    print(f"In {OUTPUT}: model_final.pth, config.yaml, metrics.json and")
    print("  detections.png  what the model finds on photographs that it never saw")
    print("  balance.png     which negatives it trained on, and which ones random sampling takes")
    print("  balanced_l1.png where the gradient of its box loss comes from")
    print(f"make quickstart took {seconds // 60} min {seconds % 60:02d} s.")


def libra_d2(*command: str) -> None:
    run(f"libra-d2 {shlex.join(command)}", "-m", "libra_d2.cli", *command)


def run(shown: str, *command: str) -> None:
    print(f"\n$ {shown}", flush=True)
    code = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if code:
        sys.exit(code)


def fingerprint() -> str:
    """A hash of everything that the training depends on."""
    digest = hashlib.sha256(sys.version.encode())
    files = [ROOT / "constraints.txt", ROOT / DATA / "stamp"]
    files += sorted([*(ROOT / "configs").glob("Base-*.yaml"), ROOT / CONFIG, *(ROOT / "libra_d2").rglob("*.py")])
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
