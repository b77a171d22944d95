"""Detectron2's DefaultTrainer with COCO evaluation, several CPU ranks, AdamW and an exact resume."""

import logging
import weakref

import torch
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter
from detectron2.utils.logger import setup_logger

from libra_d2.checkpoint import LibraCheckpointer, WeightsCheckpointer
from libra_d2.checks import UserError
from libra_d2.data.class_names import class_names_of
from libra_d2.data.proposals import evaluation_records
from libra_d2.data.random_state import preserved_rng
from libra_d2.data.train_loader import ReplayableTrainLoader
from libra_d2.engine import stop_signals
from libra_d2.engine.amp import build_stepper
from libra_d2.engine.batch_scaling import scaled
from libra_d2.engine.compile import compile_parts
from libra_d2.engine.hooks import (
    BestCheckpointer,
    EndOfPatience,
    EvalHook,
    PeriodicWriter,
    ProgressBar,
    RankState,
    RecentScalars,
    StepWatch,
    StopOnSignal,
    WeightAverage,
    averaged_model,
)
from libra_d2.engine.metric_lines import TrainingLines
from libra_d2.engine.run_writers import build_run_writers
from libra_d2.engine.validation_loss import ValidationLoss
from libra_d2.evaluation import build_evaluator
from libra_d2.inference.tiles import in_tiles, unresized

logger = logging.getLogger(__name__)


class LibraTrainer(DefaultTrainer):
    """Trains what a config says; takes the place of Detectron2's DefaultTrainer.

    A resumed run computes the very losses that it would have computed without the interruption: besides what
    Detectron2 keeps, checkpoints hold each rank's random states, RetinaNet's loss normaliser, the seed of the data, the
    averaged weights and the best metric so far.
    """

    def __init__(self, cfg):
        # Not DefaultTrainer's constructor: it hands device_ids to DistributedDataParallel, which a CPU model refuses.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = scaled(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        #: the moving average of the weights; None where the config asks for none
        self.averaged = averaged_model(cfg, model)
        compile_parts(cfg, model)
        placement = {} if torch.device(cfg.MODEL.DEVICE).type == "cuda" else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **placement)
        self._trainer = build_stepper(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = LibraCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.class_names = class_names_of(cfg)
        if self.averaged is not None:
            self.checkpointer.add_checkpointable("averaged", self.averaged)
        self._watch = StepWatch(cfg, model, self.checkpointer)
        self._trainer.register_hooks([self._watch])
        losses_are_wanted = cfg.MODEL.LIBRA.TRAIN.VALIDATION_LOSS != 0
        self._validation_loss = ValidationLoss(cfg, self.checkpointer.model) if losses_are_wanted else None
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def train(self):
        """Like Detectron2's; SIGTERM and SIGINT end it after the step, with a checkpoint, by :class:`Stopped`.

        Raises:
            DivergedError: losses or weights are not finite; the message says where it began and what to do.
        """
        with stop_signals.caught():
            try:
                return super().train()
            except EndOfPatience:
                if comm.is_main_process():
                    verify_results(self.cfg, self._last_eval_results)
            except FloatingPointError as error:
                raise self._watch.error(error) from error

    @classmethod
    def build_train_loader(cls, cfg):
        return ReplayableTrainLoader(cfg, seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed())

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        if not cfg.MODEL.LOAD_PROPOSALS:
            return super().build_test_loader(unresized(cfg), dataset_name)
        mapper, workers = DatasetMapper(cfg, is_train=False), cfg.DATALOADER.NUM_WORKERS
        return build_detection_test_loader(evaluation_records(cfg, dataset_name), mapper=mapper, num_workers=workers)

    @classmethod
    def build_optimizer(cls, cfg, model):
        """The optimizer named by ``SOLVER.OPTIMIZER``, "SGD" or "AdamW"; the BFP's gate gets no weight decay."""
        solver = cfg.SOLVER
        kinds = {
            "SGD": (torch.optim.SGD, {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}),
            "AdamW": (torch.optim.AdamW, {}),
        }
        if solver.OPTIMIZER not in kinds:
            raise UserError(f"SOLVER.OPTIMIZER: expected one of {', '.join(kinds)}, got {solver.OPTIMIZER!r}")
        kind, options = kinds[solver.OPTIMIZER]
        parameters = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
            overrides={"gate": {"weight_decay": 0.0}},
        )
        kind = maybe_add_gradient_clipping(cfg, kind)
        return kind(parameters, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, foreach=True, **options)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        # Data loaders draw; training has to go on the same after an evaluation as after a resume.
        with preserved_rng(), stop_signals.interruptible():
            return super().test(cfg, in_tiles(cfg, model), evaluators)

    @classmethod
    def test_with_TTA(cls, cfg, model) -> dict:
        """Evaluates with Detectron2's test-time augmentation; the names of the results end in "_TTA"."""
        evaluators = [build_evaluator(cfg, name, "inference_TTA") for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return {f"{task}_TTA": result for task, result in results.items()}

    def resume_or_load(self, resume=True):
        """Like Detectron2's; a resumed run goes on with the learning rate and so on that its config says now."""
        asked = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        super().resume_or_load(resume)
        if self.start_iter > 0:
            self._go_on_with(asked)

    def _go_on_with(self, asked: list[dict]) -> None:
        loaded = [group["initial_lr"] for group in self.optimizer.param_groups]
        for group, options in zip(self.optimizer.param_groups, asked, strict=True):
            group.update(options)
        self.scheduler.base_lrs = [group["initial_lr"] for group in asked]
        for group, learning_rate in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = learning_rate
        if loaded != self.scheduler.base_lrs:
            logger.info(f"--resume: the base learning rates were {loaded}, from now on {self.scheduler.base_lrs}.")

    def build_hooks(self):
        cfg, checkpointer = self.cfg, self.checkpointer
        ret = super().build_hooks()
        at = next(i for i, h in enumerate(ret) if isinstance(h, hooks.EvalHook))
        ret[at : at + 1] = self._evaluation_hooks()
        rank_state = RankState(cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
        kept = [rank_state, RecentScalars(), StopOnSignal(checkpointer, rank_state)]
        if cfg.MODEL.LIBRA.TRAIN.BEST_METRIC:
            ret.insert(at + 1, BestCheckpointer(cfg, self._weights_checkpointer(), checkpointer, rank_state))
        if self.averaged is not None:
            averaged = self._weights_checkpointer(averaged=True)
            kept.insert(0, WeightAverage(self.averaged, checkpointer.model, averaged))
        if comm.is_main_process():
            ret[-1] = PeriodicWriter(self.build_writers(), cfg.TEST.EVAL_PERIOD)
            if ProgressBar.is_wanted():
                kept.append(ProgressBar(cfg))
        first = next(i for i, h in enumerate(ret) if isinstance(h, hooks.PeriodicCheckpointer | hooks.EvalHook))
        return ret[:first] + kept + ret[first:]

    def build_writers(self):
        """Detectron2's writers and those that ``MODEL.LIBRA.TRAIN.WRITERS`` names; on the main rank alone."""
        others = [writer for writer in super().build_writers() if not isinstance(writer, CommonMetricPrinter)]
        return [TrainingLines(self.max_iter), *others, *build_run_writers(self.cfg)]

    def _evaluation_hooks(self) -> list:
        ret = [EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)]
        if self.cfg.TEST.AUG.ENABLED:
            ret.append(hooks.EvalHook(0, lambda: self.test_with_TTA(self.cfg, self.model)))
        return ret

    def _evaluate(self) -> dict:
        self._last_eval_results = self._results_of(self.model)
        if self.averaged is not None:
            evaluators = [build_evaluator(self.cfg, name, "inference_EMA") for name in self.cfg.DATASETS.TEST]
            results = self._results_of(self.averaged.module, evaluators)
            self._last_eval_results.update({f"{name}_EMA": result for name, result in results.items()})
        return self._last_eval_results

    def _results_of(self, model, evaluators=None) -> dict:
        results = self.test(self.cfg, model, evaluators)
        if self._validation_loss is not None:
            with preserved_rng(), stop_signals.interruptible():
                for name, losses in self._validation_loss.results(model).items():
                    results.setdefault(name, {}).update(losses)
        return results

    def _weights_checkpointer(self, averaged: bool | None = None) -> WeightsCheckpointer:
        """Of the averaged model or of the one that is trained; by default the one whose metric is the best one's."""
        if averaged is None:
            averaged = "_EMA/" in self.cfg.MODEL.LIBRA.TRAIN.BEST_METRIC
        model = self.averaged.module if averaged else self.checkpointer.model
        ret = WeightsCheckpointer(model, self.cfg.OUTPUT_DIR)
        ret.class_names = self.checkpointer.class_names
        return ret

    def state_dict(self):
        ret = {**super().state_dict(), "optimizer": self.cfg.SOLVER.OPTIMIZER}
        if hasattr(self.data_loader, "state_dict"):
            ret["data"] = self.data_loader.state_dict()
        return ret

    def load_state_dict(self, state_dict):
        self._check_optimizer(state_dict)
        super().load_state_dict(state_dict)
        if "data" in state_dict and hasattr(self.data_loader, "replay"):
            self.data_loader.replay(state_dict["data"], self.iter + 1)

    def _check_optimizer(self, state_dict) -> None:
        remedy = (
            "resume with the config.yaml beside the checkpoint, or start a new run from its weights: "
            "MODEL.WEIGHTS FILE and another OUTPUT_DIR"
        )
        kind = state_dict.get("optimizer", self.cfg.SOLVER.OPTIMIZER)
        if kind != self.cfg.SOLVER.OPTIMIZER:
            raise UserError(
                f"--resume: expected SOLVER.OPTIMIZER {kind}, as in the checkpoint, got {self.cfg.SOLVER.OPTIMIZER}; "
                + remedy
            )
        saved = [len(group["params"]) for group in state_dict["_trainer"]["optimizer"]["param_groups"]]
        own = [len(group["params"]) for group in self.optimizer.param_groups]
        if saved != own:
            raise UserError(
                f"--resume: expected groups of {saved} trained parameters, as in the checkpoint, got {own}: "
                "other layers are frozen (MODEL.BACKBONE.FREEZE_AT), or norms and biases have other solver settings; "
                + remedy
            )
