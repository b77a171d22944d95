"""How long imports take, and how long it is from `train_net.py` to the first step, beside Detectron2; Markdown tables.

python benchmarks/bm_startup.py [--part import train] [--turns 3]

Each figure is the median of fresh interpreters, the sides in turn; the first, which reads the files into memory, is not
counted. Detectron2's train_net.py is the one of its tools/ without what a plain config does not use. Both train R50-FPN
without weights on the same few small images. Takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import machine, markdown, progress

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = [
    ("libra_d2", "detectron2"),
    ("libra_d2.ops", "detectron2.structures"),
    ("libra_d2.modeling", "detectron2.modeling"),
    ("libra_d2.engine", "detectron2.engine"),
]
MOMENTS = ("first step begins", "first step has ended")


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - start


def import_table(turns: int) -> str:
    names = [name for pair in IMPORTS for name in pair]
    seconds = {name: [] for name in ("nothing", *names)}
    for turn in range(turns + 1):
        progress(f"imports, turn {turn} of {turns}")
        for name, values in seconds.items():
            values.append(seconds_of([sys.executable, "-c", "pass" if name == "nothing" else f"import {name}"]))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    rows = [
        [f"`{ours}` / `{theirs}`", *(medians[name] - medians["nothing"] for name in (ours, theirs))]
        for ours, theirs in IMPORTS
    ]
    return markdown(["seconds to import", "libra_d2", "Detectron2"], rows)


def train_table(turns: int) -> str:
    from detectors import SIDES, write_data

    moments = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder, "images"), 8, (320, 320), 1)
        for turn in range(turns + 1):
            progress(f"train_net.py, turn {turn} of {turns}")
            for side in SIDES:
                output = f"{folder}/output-{side}-{turn}"
                command = [sys.executable, __file__, "--train", side, str(data.json_file), str(data.images), output]
                start = time.time()
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(done.stderr)
                lines = [line.split() for line in done.stdout.splitlines() if line.startswith("moment ")]
                moments[side].append([float(line[1]) - start for line in lines])
    rows = [
        [moment, *(statistics.median(turn[i] for turn in moments[side][1:]) for side in SIDES)]
        for i, moment in enumerate(MOMENTS)
    ]
    return markdown(["seconds from the command until", *SIDES], rows)


def train(side: str, json_file: str, images: str, output: str) -> None:
    """One side's train_net.py in this process; says when its first step begins and ends."""
    from detectron2.engine import SimpleTrainer

    run_step = SimpleTrainer.run_step

    def timed(self):
        print("moment", time.time(), flush=True)
        run_step(self)
        print("moment", time.time(), flush=True)

    SimpleTrainer.run_step = timed
    opts = ["OUTPUT_DIR", output, "SOLVER.MAX_ITER", "1", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    opts += ["DATASETS.TEST", "()", "INPUT.MIN_SIZE_TRAIN", "(320,)", "SOLVER.IMS_PER_BATCH", "2"]
    if side == "libra_d2":
        data = ["--train-json", json_file, "--train-images", images]
        sys.argv = ["train_net.py", "--config-file", "libra_faster_rcnn_R_50_FPN_1x.yaml", *data, *opts]
        runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
    else:
        detectron2_train_net(json_file, images, opts)


def detectron2_train_net(json_file: str, images: str, opts: list[str]) -> None:
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.data.datasets import register_coco_instances
    from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch

    def main(args):
        register_coco_instances("train", {}, json_file, images)
        cfg = get_cfg()
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list([*args.opts, "DATASETS.TRAIN", "('train',)"])
        cfg.freeze()
        default_setup(cfg, args)
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()

    config_file = model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    args = default_argument_parser().parse_args(["--config-file", config_file, *opts])
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["import", "train"], default=["import", "train"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one turn, to see that it runs")
    parser.add_argument("--train", nargs=4, metavar=("SIDE", "JSON", "IMAGES", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(*args.train)
        return
    turns = 1 if args.quick else args.turns
    print(machine(), "\n")
    if "import" in args.part:
        print(import_table(turns), "\n")
    if "train" in args.part:
        print(train_table(turns))


if __name__ == "__main__":
    main()
