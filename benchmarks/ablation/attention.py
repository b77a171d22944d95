"""How sharply the non-local refine attends, and how large its features are, in the first iterations of a training.

    python benchmarks/ablation/attention.py [--arm libra] [--learning-rate 0.001] [--iterations 100]

"attended positions" is the perplexity of the attention weights, averaged over the queries: every position of the level
where the weights are even, 1 where each query attends to one position alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import experiment
import run
import torch
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from folds import FOLDS, ROOT

sys.path += [str(ROOT), str(ROOT / "benchmarks")]

from side_by_side import markdown  # noqa: E402

import train_net  # noqa: E402
from libra_d2.engine import LibraTrainer, argument_parser  # noqa: E402
from libra_d2.modeling.bfp import NonLocalRefine  # noqa: E402

PERIOD = 10
HEADER = ["iteration", "loss", "RMS of the mean level", "largest logit", "attended positions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", default="libra", choices=experiment.ARMS)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--iterations", type=int, default=100)
    args = parser.parse_args()

    run.prepare()
    job = experiment.Job(args.arm, args.learning_rate, min(experiment.LENGTHS), FOLDS[0], experiment.SEARCH_SEED)
    command = [*run.command(job)[1:], "OUTPUT_DIR", str(run.OUTPUT / "attention")]
    cfg = train_net.build_config(argument_parser().parse_args(command))
    train_net.register_datasets(cfg)
    seed_all_rng(cfg.SEED)
    trainer = LibraTrainer(cfg)
    if not isinstance(getattr(trainer.model.backbone, "refine", None), NonLocalRefine):
        parser.error(f"--arm: expected one whose pyramid has a non-local refine, such as libra, got {args.arm}")
    trainer.resume_or_load(resume=False)
    trainer.max_iter = args.iterations  # the schedule stays that of the whole job
    attention = Attention()
    trainer.register_hooks([attention])
    trainer.train()
    print(f"\n{args.arm}, learning rate {args.learning_rate:g}\n")
    print(markdown(HEADER, attention.rows))


class Attention(HookBase):
    """A row for every ``PERIOD`` iterations; the loss is their mean, the rest is what the last of them saw."""

    def __init__(self):
        self.rows: list[list[object]] = []

    def before_train(self):
        self.trainer.model.backbone.refine.register_forward_hook(self._measure)

    @torch.no_grad()
    def _measure(self, refine, inputs, output):
        (level,) = inputs
        logits = refine.theta(level).flatten(2).transpose(1, 2) @ refine.phi(level).flatten(2)
        attended = torch.special.entr(logits.softmax(-1)).sum(-1).exp().mean()
        size = level.square().mean().sqrt()
        self._last = [f"{size:.1f}", f"{logits.abs().max():.0f}", f"{attended:.1f} of {logits.shape[-1]}"]

    def after_step(self):
        if (self.trainer.iter + 1) % PERIOD == 0:
            losses = self.trainer.storage.history("total_loss").values()[-PERIOD:]
            loss = statistics.mean(value for value, _ in losses)
            self.rows.append([self.trainer.iter + 1, f"{loss:.2f}", *self._last])


if __name__ == "__main__":
    main()
