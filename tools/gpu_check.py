"""Checks the CUDA half of libra_d2 on this machine's GPU and times it next to eager Detectron2.

    python tools/gpu_check.py [--part PART ...] [--table FILE]

``make gpu-check`` builds the core for the Python at hand and runs this; PARTS="results timings" runs these parts alone,
for a GPU that is lent for minutes. Exit status: 0 when all is well, 1 when a check fails, 77 when there is no GPU to
check on.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for the builders of the tests
NO_GPU = 77
RPN = {"thresholds": [0.3, 0.7], "labels": [0, -1, 1], "allow_low_quality": True}
ROI = {"thresholds": [0.5], "labels": [0, 1]}
# Images, ground truths of each, and proposals; None stands for the anchors.
WORK = ((16, 7, None), (16, 50, None), (16, 300, None), (2, 50, None), (16, 50, 2000), (2, 50, 2000), (2, 2000, 2000))
ANCHORS = 268_569
# Of an H100 on paper, in µs, by a reviewer of an earlier design of the sampling; docs/cuda.md has those of this one.
ESTIMATES = {
    f"match 16 x {ANCHORS:,} anchors x 50": "110-140 (bytes alone: 25)",
    f"sample 16 x {ANCHORS:,} anchors x 50": "70-110",
    "match 16 x 2,000 proposals x 50": "6-8",
    "sample 16 x 2,000 proposals x 50": "30-40",
}
# One of each kind of head
MODELS = ("libra_faster_rcnn", "libra_mask_rcnn", "libra_cascade_rcnn", "libra_retinanet")
WAIT = "called a synchronizing CUDA operation"  # torch's words; that the debug mode is a prototype is another warning


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([1200.0, 700.0])
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 300], dim=1)


def anchors_of(height: int = 800, width: int = 1344) -> torch.Tensor:
    """Three shapes on each cell of five levels, neighbours in the image being neighbours in memory."""
    levels = []
    for stride in (4, 8, 16, 32, 64):
        y, x = torch.meshgrid(torch.arange(0, height, stride), torch.arange(0, width, stride), indexing="ij")
        centre = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).float()
        h = 8 * stride * torch.tensor([0.5, 1, 2]).sqrt()
        half = torch.stack([(8 * stride) ** 2 / h, h], dim=1) / 2
        levels.append(torch.cat([centre - half, centre + half], dim=2).reshape(-1, 4))
    return torch.cat(levels)


class Batch:
    """Boxes and ground truths of some images on the GPU; ``shared`` boxes are anchors."""

    def __init__(self, images: int, gts: int, boxes: int | None, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.images, self.gts = images, gts
        self.shared = boxes is None
        self.boxes = (anchors_of() if self.shared else random_boxes(images * boxes, generator)).cuda()
        self.rows = len(self.boxes) if self.shared else boxes
        self.gt_boxes = random_boxes(images * gts, generator).cuda()
        self.gt_offsets = torch.arange(images + 1).mul(gts).cuda()
        self.offsets = torch.arange(images + 1).mul(self.rows).cuda()
        self.rule = RPN if self.shared else ROI

    def match(self):
        from libra_d2 import ops

        offsets = None if self.shared else self.offsets
        return ops.match_boxes(self.boxes, self.gt_boxes, offsets, self.gt_offsets, **self.rule)

    def sample(self, matched, seed=None, **options):
        from libra_d2 import ops

        index, iou, label = (t.flatten() for t in matched)
        if self.shared:
            options = {"positive": "random", "negative": "random", "neg_pos_ub": 5.0, **options}
        size, fraction = (256, 0.5) if self.shared else (512, 0.25)
        return ops.bucketed_sample(label, iou, index, self.offsets, size, fraction, seed=seed, **options)

    def match_with_detectron2(self):
        from detectron2.modeling.matcher import Matcher
        from detectron2.structures import Boxes, pairwise_iou

        matcher = Matcher(self.rule["thresholds"], self.rule["labels"], self.rule.get("allow_low_quality", False))
        for n in range(self.images):
            boxes = self.boxes if self.shared else self.boxes[n * self.rows : (n + 1) * self.rows]
            matcher(pairwise_iou(Boxes(self.gt_boxes[n * self.gts : (n + 1) * self.gts]), Boxes(boxes)))

    def sample_with_detectron2(self, matched):
        from detectron2.modeling.sampling import subsample_labels

        size, fraction = (256, 0.5) if self.shared else (512, 0.25)
        for labels in matched[2].view(self.images, -1):
            subsample_labels(labels, size, fraction, 0)


def exercise() -> None:
    """Every kernel once or more, for compute-sanitizer to watch."""
    from libra_d2 import ops

    for batch in (Batch(2, 5, None), Batch(3, 70, 1500), Batch(2, 9, 6000), Batch(1, 1, 1)):
        for batch.rule in (RPN, ROI):
            matched = batch.match()
        for negative in ("random", "iou_balanced"):
            batch.sample(matched, negative=negative)
        if not batch.shared:
            ops.batched_iou(batch.boxes, batch.gt_boxes, batch.offsets, batch.gt_offsets)
    batch = Batch(2, 9, 6000)
    index, iou, label = batch.match()
    for negative in ("random", "iou_balanced"):  # thousands of boxes
        ops.bucketed_sample(label, iou, index, batch.offsets, 5000, 0.5, negative=negative)
    for bad in ([0, 10**12, -5], [9000, 400, 400], [0]):  # nobody checks offsets there, yet no address may be bad
        batch.offsets = batch.gt_offsets = torch.tensor(bad).cuda()
        batch.sample(batch.match())
    torch.cuda.synchronize()


def check_results() -> None:
    """The tests of the ops with the "cuda" backend, and the emulated kernels against the real ones."""
    options = ["-q", "-rs", "-n", str(min(8, os.cpu_count())), "-k", "cuda"]
    tests = ["tests/ops", "tests/cuda_emulator/test_kernels.py"]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT, check=True)


def check_ops_never_wait() -> None:
    batches = [Batch(4, 20, None), Batch(4, 20, 2000)]
    exercise()  # loads the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            batch.sample(batch.match())
            batch.gt_offsets = torch.arange(batch.images + 1).mul(batch.gts)
            batch.offsets = torch.arange(batch.images + 1).mul(batch.rows)
            batch.sample(batch.match())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(step) -> int:
    """How often the step waits for the GPU once it is warm."""
    from detectron2.utils.events import EventStorage

    with EventStorage(), warnings.catch_warnings(record=True) as caught:
        step()  # warms up
        warnings.simplefilter("always")
        caught.clear()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(WAIT in str(w.message) for w in caught)


def check_assignment_waits_once() -> None:
    """RoI heads wait for the counts, once a batch; the RPN does not wait at all."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_proposal_generator, build_roi_heads
    from detectron2.structures import Boxes, Instances

    import libra_d2

    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "libra_faster_rcnn_R_50_FPN_1x.yaml"))
    shapes = {f"p{level}": ShapeSpec(channels=256, stride=2**level) for level in range(2, 7)}
    batch, size = Batch(4, 20, 2000), (1000, 1500)
    proposals, targets = [], []
    for n in range(batch.images):
        boxes = Boxes(batch.boxes[n * batch.rows : (n + 1) * batch.rows])
        logits = torch.zeros(batch.rows, device="cuda")
        proposals.append(Instances(size, proposal_boxes=boxes, objectness_logits=logits))
        gts = Boxes(batch.gt_boxes[n * batch.gts : (n + 1) * batch.gts])
        classes = torch.zeros(batch.gts, dtype=torch.int64, device="cuda")
        targets.append(Instances(size, gt_boxes=gts, gt_classes=classes))
    roi_heads = build_roi_heads(cfg, shapes).cuda().train()
    rpn = build_proposal_generator(cfg, shapes).cuda().train()
    anchors = [Boxes(anchors_of().cuda())]

    assert (found := waits(lambda: roi_heads.label_and_sample_proposals(proposals, targets))) == 1, (
        f"RoI heads: {found}"
    )
    assert (found := waits(lambda: rpn.label_and_sample_anchors(anchors, targets))) == 0, f"RPN: {found} waits"


def check_models(names=MODELS, device: str = "cuda", size: tuple[int, int] = (320, 416)) -> None:
    """Each model takes a step and detects, in float32 and in mixed precision: all that comes out is finite."""
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    import libra_d2
    from tests.modeling.builders import batch

    for name in names:
        cfg = libra_d2.get_cfg()
        cfg.merge_from_file(str(ROOT / "configs" / f"{name}_R_50_FPN_1x.yaml"))
        cfg.merge_from_list(["MODEL.DEVICE", device])
        torch.manual_seed(0)
        model = build_model(cfg)
        for key, buffer in model.named_buffers():
            # Without statistics to normalise by, every residual block would double its input.
            if key.endswith("conv3.norm.weight"):
                buffer.zero_()
        images = batch(size=size, masks=True)
        for mixed in (False, True):
            with EventStorage(), torch.autocast(device, enabled=mixed):
                losses = model.train()(images)
            sum(losses.values()).backward()
            gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
            bad = [key for key, value in {**losses, **gradients}.items() if not value.isfinite().all()]
            assert not bad, f"{name}, mixed precision {mixed}: not finite: {', '.join(bad)}"
            assert any("refine" in key for key in gradients), f"{name}: no gradient of the pyramid's refinement"
            model.zero_grad()
            with torch.no_grad(), torch.autocast(device, enabled=mixed):
                (found, _) = model.eval()(images)
            assert found["instances"].pred_boxes.tensor.isfinite().all(), f"{name}: boxes that are not finite"


def check_memory_that_runs_out() -> None:
    """Outputs that no GPU has room for are an error of Python's, and the next call works."""
    from libra_d2 import ops

    boxes = torch.ones(1, 4, device="cuda").expand(1 << 20, 4)
    no_gts = torch.zeros((1 << 18) + 1, dtype=torch.int64, device="cuda")
    refused = ""
    try:
        ops.match_boxes(boxes, boxes[:0], None, no_gts, [0.5], [0, 1])
    except RuntimeError as error:
        refused = str(error)
    assert refused, "two terabytes were not refused"
    Batch(2, 5, 100).match()


def check_graphs_refuse_offsets_of_the_cpu() -> None:
    batch = Batch(2, 5, 100)
    batch.match()  # loads the kernel
    batch.gt_offsets = batch.gt_offsets.cpu()
    refused = ""
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        try:
            batch.match()
        except ValueError as error:
            refused = str(error)
    assert "expected gt_offsets on the GPU while a CUDA graph is captured" in refused, refused or "not refused"


def check_graph_replays() -> None:
    for boxes in (None, 2000):
        batch, other = Batch(4, 20, boxes, seed=1), Batch(4, 20, boxes, seed=2)
        seed = torch.zeros((), dtype=torch.int64, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # allocations and module loading before the capture
            batch.sample(batch.match(), seed)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            matched = batch.match()
            sampled = batch.sample(matched, seed)
        batch.boxes.copy_(other.boxes)
        batch.gt_boxes.copy_(other.gt_boxes)
        seed.fill_(-5)
        graph.replay()
        expected = other.match()
        expected += other.sample(expected, seed)
        for one, two in zip((*matched, *sampled), expected, strict=True):
            assert torch.equal(one, two), "a replayed graph differs from the eager ops"


def find_compute_sanitizer() -> str | None:
    """That of the toolkit, else of the PATH, else of a PyPI package."""
    from torch.utils.cpp_extension import CUDA_HOME

    toolkit = [Path(CUDA_HOME) / "bin"] if CUDA_HOME else []
    packages = [folder for path in sys.path for folder in Path(path).glob("nvidia/*/bin")]
    folders = [*toolkit, os.environ.get("PATH", os.defpath), *packages]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(map(str, folders)))


def check_compute_sanitizer(tool: str) -> None:
    found = find_compute_sanitizer()
    if found is None:
        print("   compute-sanitizer is not installed (PyPI: nvidia-cuda-sanitizer-api): not run")
        return
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else it does not see a tensor's end
    # torch asks the driver for what may not be there, and handles the error: not one of the kernels.
    options = ["--tool", tool, "--error-exitcode", "1", "--report-api-errors", "no"]
    subprocess.run([found, *options, sys.executable, __file__, "--exercise"], env=environment, check=True)


def median_ms(function, repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


def replayed_us(function, calls: int = 20) -> float:
    """Microseconds of one call among many in a CUDA graph: without Python, and with the gaps between kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # allocations and module loading before the capture
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    return median_ms(graph.replay, 20) * 1000 / calls


def names_of_work(images: int, gts: int, boxes: int | None) -> tuple[str, str]:
    what = f"{images} x {boxes or ANCHORS:,} {'proposals' if boxes else 'anchors'} x {gts}"
    return f"match {what}", f"sample {what}"


def table() -> str:
    """Medians by CUDA events, host time that the GPU waits for included but in graphs; both sides in the same run."""
    lines = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}; medians",
        "",
        "| work | in a graph, µs | estimate for an H100, µs | libra_d2, ms | Detectron2, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    seed = torch.zeros((), dtype=torch.int64, device="cuda")
    for images, gts, boxes in WORK:
        batch = Batch(images, gts, boxes)
        matched = batch.match()
        match, sample = names_of_work(images, gts, boxes)
        rows = {match: (batch.match, batch.match_with_detectron2)}
        if gts == 50:
            rows[sample] = (
                lambda b=batch, m=matched: b.sample(m, seed),
                lambda b=batch, m=matched: b.sample_with_detectron2(m),
            )
        for work, (ours, theirs) in rows.items():
            replayed, our_ms, their_ms = replayed_us(ours), median_ms(ours, 50), median_ms(theirs, 10)
            lines.append(
                f"| {work} | {replayed:.1f} | {ESTIMATES.get(work, '')} | {our_ms:.3f} | {their_ms:.3f} "
                f"| {their_ms / our_ms:.1f} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {
        "results": check_results,
        "waits": check_ops_never_wait,
        "assignment": check_assignment_waits_once,
        "models": check_models,
        "memory": check_memory_that_runs_out,
        "graphs": check_graph_replays,
        "capture": check_graphs_refuse_offsets_of_the_cpu,
        **{tool: lambda tool=tool: check_compute_sanitizer(tool) for tool in ("memcheck", "racecheck", "synccheck")},
        "timings": lambda: write_table(args.table),
    }
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts), help="run these parts alone")
    parser.add_argument("--table", type=Path, help="also write the table of timings to this file")
    parser.add_argument("--exercise", action="store_true", help="only run every kernel (compute-sanitizer's part)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device is visible here, nothing was checked")
        return NO_GPU
    from libra_d2 import ops

    if not ops.has_cuda():
        print("gpu-check: the core has no CUDA kernels here: libra-d2 env says why")
        return 1
    if args.exercise:
        exercise()
        return 0
    failed = []
    for part in args.part:
        print(f"== {part}", flush=True)
        try:
            parts[part]()
        except Exception as error:  # the other checks are worth running
            failed.append(part)
            print(f"   FAILED: {type(error).__name__}: {error}", flush=True)
    print(f"gpu-check: {'failed: ' + ', '.join(failed) if failed else 'all checks passed'}")
    return 1 if failed else 0


def write_table(path: Path | None) -> None:
    text = table()
    print(text)
    if path:
        path.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
