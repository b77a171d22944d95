"""Counts the instructions of the CPU core: a guard that the machine's mood cannot move.

    python benchmarks/instructions.py            # compares with instructions.csv; exits with 1 where one has grown
    python benchmarks/instructions.py --write    # after a change that is meant

Needs Valgrind, whose callgrind counts, and a C compiler. Valgrind has no AVX-512, so that every x86-64 processor with
AVX2 runs the same code; what remains of the difference between machines is within the tolerance.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TABLE = Path(__file__).with_name("instructions.csv")
TOLERANCE = 0.03
REQUESTS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char* name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put what is counted into instructions.csv")
    parser.add_argument("--inside", metavar="LIBRARY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        run_cases(args.inside)
        return 0
    counted = count()
    if args.write:
        write(counted)
        return 0
    grown = compare(counted, read())
    for line in grown:
        print(line)
    print(f"{len(counted)} cases counted, {len(grown)} not as in {TABLE.name}")
    return 1 if grown else 0


def cases() -> dict:
    """What is counted: a shape of each op that training has, and one so small that the calls themselves count."""
    import torch
    from bm_match import ROI, RPN, random_boxes, rpn_anchors

    from libra_d2 import ops

    if ops.backend() != "native":
        raise SystemExit("instructions.py: expected the compiled core, got the pure-torch path; see libra-d2 env")
    generator = torch.Generator().manual_seed(0)
    anchors, boxes = rpn_anchors(), random_boxes(4000, generator)
    gt, few = random_boxes(50, generator), random_boxes(5, generator)
    all_anchors, two_images, gts = (torch.tensor(rows) for rows in ([0, len(anchors)], [0, 2000, 4000], [0, 25, 50]))
    one, five = torch.tensor([0, 100]), torch.tensor([0, 5])
    seed = torch.tensor(5)
    roi_idx, roi_iou, roi_label = ops.match_boxes(boxes, gt, two_images, gts, [0.1], [0, 1])
    rpn_idx, rpn_iou, rpn_label = (
        each.flatten() for each in ops.match_boxes(anchors, gt, None, torch.tensor([0, 50]), *RPN)
    )
    random = {"positive": "random", "negative": "random", "seed": seed}
    return {
        "match, 268,569 anchors x 5": lambda: ops.match_boxes(anchors, few, None, five, *RPN),
        "match, 2 x 2,000 proposals x 25": lambda: ops.match_boxes(boxes, gt, two_images, gts, *ROI),
        "match, 100 x 5": lambda: ops.match_boxes(boxes[:100], few, one, five, *ROI),
        "sample, 268,569 anchors": lambda: ops.bucketed_sample(
            rpn_label, rpn_iou, rpn_idx, all_anchors, 256, 0.5, **random
        ),
        "sample, 2 x 2,000 proposals": lambda: ops.bucketed_sample(
            roi_label, roi_iou, roi_idx, two_images, 512, 0.25, seed=seed
        ),
        "sample, 100": lambda: ops.bucketed_sample(
            roi_label[:100], roi_iou[:100], roi_idx[:100], one, 32, 0.25, seed=seed
        ),
        "IoU, 2 x 2,000 x 25": lambda: ops.batched_iou(boxes, gt, two_images, gts),
    }


def run_cases(library: str) -> None:
    """Under Valgrind: the second call of each case is counted."""
    requests = ctypes.CDLL(library)
    for name, run in cases().items():
        run()
        requests.start()
        run()
        requests.stop(name.encode())


def count() -> dict[str, int]:
    """{case: instructions}, of one thread."""
    valgrind, compiler = shutil.which("valgrind"), shutil.which(os.environ.get("CC", "cc"))
    if not valgrind or not compiler:
        raise SystemExit(
            f"instructions.py: expected valgrind and a C compiler in PATH, got {valgrind} and {compiler}; on Debian: "
            "apt-get install valgrind gcc"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "requests.c"), Path(folder, "requests.so")
        source.write_text(REQUESTS)
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
        script = [sys.executable, __file__, "--inside", library]
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counted", "--quiet"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        subprocess.run([valgrind, *options, *script], check=True, env=env)
        return dict(parsed(path.read_text()) for path in sorted(Path(folder).glob("counted.*")))


def parsed(dump: str) -> tuple[str, int]:
    """The case of one of callgrind's dumps, and what it counted."""
    name = re.search(r"^desc: Trigger: Client Request: (.*)$", dump, re.MULTILINE)
    total = re.search(r"^(?:totals|summary): (\d+)$", dump, re.MULTILINE)
    return name[1], int(total[1])


def compare(counted: dict[str, int], expected: dict[str, int]) -> list[str]:
    """A sentence for each case that has another count than it should have."""
    lines = []
    for name in dict.fromkeys([*expected, *counted]):
        got, wanted = counted.get(name), expected.get(name)
        if not got or not wanted:
            lines.append(f"{name}: expected {wanted or 'no such case'}, got {got or 'none'}; --write makes a new table")
        elif abs(got - wanted) > TOLERANCE * wanted:
            lines.append(f"{name}: expected {wanted:,} instructions, got {got:,} ({got / wanted - 1:+.1%})")
    return lines


def read() -> dict[str, int]:
    with TABLE.open() as file:
        return {row["case"]: int(row["instructions"]) for row in csv.DictReader(file)}


def write(counted: dict[str, int]) -> None:
    with TABLE.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "instructions"])
        writer.writerows(counted.items())


if __name__ == "__main__":
    sys.exit(main())
