"""benchmarks/accuracy: what the arms change, what a job runs, which jobs there are, and that the data are checked."""

import hashlib
import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model

import libra_d2

ROOT = Path(libra_d2.__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart" / "libra_faster_rcnn_trees.yaml"


def load(opts, recipe=QUICKSTART):
    cfg = libra_d2.get_cfg()
    cfg.merge_from_file(str(recipe))
    cfg.merge_from_list([*opts, "MODEL.WEIGHTS", ""])
    return cfg


def flat(node, prefix=""):
    values = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value}
    return values


def changed(cfg, other):
    return {key.removeprefix("MODEL.") for key, value in flat(cfg).items() if value != flat(other)[key]}


PARTS = {
    "sampling": {"LIBRA.SAMPLER.POSITIVE", "LIBRA.SAMPLER.NEGATIVE"},
    "bfp": {"LIBRA.BFP.ENABLED"},
    "balanced_l1": {"ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"},
}
LIMIT, DIVISOR = "LIBRA.RPN.NEG_POS_UB", "LIBRA.RPN.NORMALIZER"
LESS = {"ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "RPN.PRE_NMS_TOPK_TRAIN", "RPN.POST_NMS_TOPK_TRAIN"}
GATED_PYRAMID = {"LIBRA.BFP.ENABLED", "LIBRA.BFP.REFINE_TYPE", "LIBRA.BFP.INIT"}
CHANGES = {  # arm: (the arm that it is compared with, what differs)
    "bfp_identity": ("bfp", {"LIBRA.BFP.INIT"}),
    "bfp_zero": ("bfp", {"LIBRA.BFP.INIT"}),
    "bfp_mmdet": ("bfp", {"LIBRA.BFP.INIT"}),
    "bfp_cosine": ("bfp", {"LIBRA.BFP.ATTENTION"}),
    "bfp_integrate": ("bfp", {"LIBRA.BFP.REFINE_TYPE"}),
    "bfp_conv": ("bfp", {"LIBRA.BFP.REFINE_TYPE"}),
    "rpn_plain": ("baseline", {LIMIT, DIVISOR}),
    "rpn_limit": ("baseline", {DIVISOR}),
    "rpn_normalizer": ("baseline", {LIMIT}),
    "positives": ("baseline", {"LIBRA.SAMPLER.POSITIVE"}),
    "negatives": ("baseline", {"LIBRA.SAMPLER.NEGATIVE"}),
    "sampling_floor": ("sampling", {"LIBRA.SAMPLER.FLOOR_THR", "LIBRA.SAMPLER.FLOOR_FRACTION"}),
    "few_baseline": ("baseline", {"ROI_HEADS.BATCH_SIZE_PER_IMAGE"}),
    "few_sampling": ("few_baseline", PARTS["sampling"]),
    "l1_weight": ("baseline", {"ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"}),
    "half_weight": ("rpn_plain", {"ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"}),
    "quarter_weight": ("rpn_plain", {"ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"}),
    "less": ("recommended", LESS),
    "less_full_weight": ("less", {"ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT"}),
    "detectron2_less": ("detectron2", LESS),
    "pyramid": ("rpn_plain", GATED_PYRAMID),
    "pyramid_balanced_l1": ("pyramid", PARTS["balanced_l1"]),
    "balanced_l1_gamma_1": ("balanced_l1", {"LIBRA.BALANCED_L1.GAMMA"}),
    "pisa": ("baseline", {"LIBRA.PISA.ENABLED"}),
    "focal": ("baseline", {"LIBRA.CLASS_LOSS.NAME"}),
    "class_weights": ("baseline", {"LIBRA.CLASS_LOSS.WEIGHTS"}),
    "seesaw": ("baseline", {"LIBRA.CLASS_LOSS.NAME"}),
    "giou": ("baseline", {"ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"}),
    "repeat_factor": ("baseline", {"DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"}),
    "agnostic_boxes": ("rpn_plain", {"ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"}),
    "integrate_balanced_l1": ("bfp_integrate", PARTS["balanced_l1"]),
    "libra_identity": ("libra", {"LIBRA.BFP.INIT"}),
    "libra_integrate": ("libra", {"LIBRA.BFP.REFINE_TYPE"}),
    "libra_conv": ("libra", {"LIBRA.BFP.REFINE_TYPE"}),
    "libra_random_positives": ("libra", {"LIBRA.SAMPLER.POSITIVE"}),
    "libra_random_negatives": ("libra", {"LIBRA.SAMPLER.NEGATIVE"}),
}


def test_each_part_is_the_baseline_and_one_thing_and_the_recommended_one_is_the_quickstart(accuracy):
    arms = accuracy("arms").ARMS
    baseline = load(arms["baseline"])
    assert baseline.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE == libra_d2.get_cfg().MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE
    for arm, keys in PARTS.items():
        assert changed(load(arms[arm]), baseline) == keys
    assert changed(load(arms["libra"]), baseline) == set.union(*PARTS.values())
    plain_rpn = changed(load(arms["rpn_plain"]), baseline)
    assert changed(load(arms["recommended"]), baseline) == plain_rpn | PARTS["balanced_l1"]
    same = ["MODEL.LIBRA.BFP.INIT", "identity"]  # nothing is refined without a pyramid
    assert load([*arms["recommended"], *same]) == load([])


def keys_that_docs_give():
    """KEY VALUE pairs for all three parts, and for balanced L1 alone."""
    text = (ROOT / "docs" / "choosing.md").read_text()
    return [block.split() for block in re.findall(r"^```\n(MODEL\..*?)\n```$", text, re.M | re.S)]


def test_the_keys_that_switch_all_three_parts_on_are_the_arm_of_libra(accuracy):
    libra, plain = keys_that_docs_give()
    few = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", "500"]  # of the quickstart
    assert load([*libra, *few]) == load(accuracy("arms").ARMS["libra"])
    assert load([*libra, *plain, *few]) == load(accuracy("arms").ARMS["recommended"])
    paper, finetune = (ROOT / "configs" / folder / "libra_faster_rcnn_R_50_FPN_1x.yaml" for folder in ("", "finetune"))

    def differing(*sides):
        return {key for key in changed(*sides) if not key.startswith("SOLVER.")}

    assert differing(load(libra, finetune), load([], paper)) == set()
    assert differing(load(plain, paper), load([], finetune)) == {"LIBRA.BFP.INIT"}


def test_every_cause_is_one_change(accuracy):
    arms = accuracy("arms")
    assert set(CHANGES) == set(arms.CAUSES)
    for arm, (other, keys) in CHANGES.items():
        jobs = (accuracy("jobs").Job("facemask", "imagenet", name, 0.001, 70, 5) for name in (arm, other))
        assert changed(*(load(job.opts()) for job in jobs)) == keys, arm


def test_a_set_has_a_weight_for_each_class(accuracy):
    classes = {r.set: len(r.classes.split()) for r in accuracy("results").read() if r.classes not in ("", "nan")}
    assert classes["facemask"] == 3
    for name, count in classes.items():
        opts = accuracy("jobs").Job(name, "imagenet", "class_weights", 0.001, 70, 5).opts()
        weights = load([*opts, "MODEL.ROI_HEADS.NUM_CLASSES", count]).MODEL.LIBRA.CLASS_LOSS.WEIGHTS
        assert len(weights) == count


def test_nothing_of_libra_trains_in_the_arm_of_detectron2(accuracy):
    arms = accuracy("arms").ARMS

    def own(arm):
        model = build_model(load([*arms[arm], "MODEL.DEVICE", "cpu"]))
        return {type(module).__name__ for module in model.modules() if type(module).__module__.startswith("libra_d2")}

    assert own("detectron2") == {"TorchvisionBackbone"}
    assert {"LibraRCNN", "LibraRPN", "LibraROIHeads"} <= own("baseline")


def test_a_job_trains_what_its_name_says_with_clipped_gradients(accuracy):
    job = accuracy("jobs").Job("trees_fold1", "imagenet", "bfp", 0.002, 70, seed=5)
    assert job.name == "trees_fold1_imagenet_bfp_0.002_70_seed5"
    cfg = load(job.opts())
    arm = load(accuracy("arms").ARMS["bfp"])
    assert changed(cfg, arm) == {"SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SEED"}
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (0.002, 70, 5)
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    assert (clipping.ENABLED, clipping.CLIP_TYPE, clipping.CLIP_VALUE) == (True, "norm", 0.1)


def test_the_recipes_are_the_quickstarts_but_for_what_the_images_ask_for(accuracy):
    sets = accuracy("sets").SETS
    length = {"SOLVER.MAX_ITER"}  # every job gives its own
    assert changed(load([], sets["facemask"].recipe), load([])) == {"INPUT.VERTICAL_FLIP"} | length
    assert changed(load([], sets["coco_person"].recipe), load([])) == {"INPUT.VERTICAL_FLIP"} | length
    assert changed(load([], sets["deeppcb"].recipe), load([])) == {"INPUT.MIN_SIZE_TEST"} | length
    assert sets["trees_fold0"].recipe == QUICKSTART


def test_the_second_protocol_starts_from_the_detector_and_leaves_its_set_out(accuracy):
    jobs = accuracy("jobs")
    opts = jobs.Job("facemask", "detector", "baseline", 0.001, 70, 5).opts()
    assert opts[opts.index("MODEL.WEIGHTS") + 1] == "output/accuracy/detector/model_final.pth"
    assert "MODEL.WEIGHTS" not in jobs.Job("facemask", "imagenet", "baseline", 0.001, 70, 5).opts()
    imagenet, detector, eight = (
        {job.set for job in jobs.final_jobs(name)} for name in ("imagenet", "detector", "detector_batch8")
    )
    assert imagenet - detector == {"coco_person"}
    assert detector == eight


def test_single_changes_and_searches_never_see_a_test_seed(accuracy):
    jobs, arms = accuracy("jobs"), accuracy("arms")
    for protocol in jobs.PROTOCOLS:
        exploring = [*jobs.cause_jobs(protocol), *jobs.search_jobs(protocol)]
        exploring += [job for name in accuracy("screens").SCREENS for job in jobs.screen_jobs(protocol, screen=name)]
        final = jobs.final_jobs(protocol)
        assert not {job.seed for job in exploring} & {job.seed for job in final}
        assert len({job.seed for job in final}) == 5
        assert {job.arm for job in final} == set(arms.PARTS)
        if len(jobs.PROTOCOLS[protocol].sets) > 1:  # every other set has the other half of a screen
            assert set(arms.ARMS) == {job.arm for job in exploring}
        searches = {
            arm: {(j.set, j.learning_rate, j.iterations) for j in exploring if j.arm == arm} for arm in arms.PARTS
        }
        assert len({frozenset(cells) for cells in searches.values()}) == 1  # the same for every arm


def test_words_of_one_kind_are_alternatives(accuracy):
    jobs = accuracy("jobs")
    everything = jobs.final_jobs("imagenet") + jobs.final_jobs("detector")
    some = list(jobs.only(everything, ["trees", "facemask", "imagenet", "baseline", "recommended", "seed2"]))
    assert {(j.set, j.protocol, j.arm, j.seed) for j in some} == {
        (name, "imagenet", arm, 2)
        for name in ("trees_fold0", "trees_fold1", "facemask")
        for arm in ("baseline", "recommended")
    }
    assert list(jobs.only(everything, [])) == everything
    with pytest.raises(SystemExit, match="expected seedN or one of facemask, .*, got 'facemsk'"):
        next(jobs.only(everything, ["facemsk"]))


@pytest.fixture
def small_set(accuracy, tmp_path):
    sets = accuracy("sets")
    folder = tmp_path / "facemask"
    (folder / "images").mkdir(parents=True)
    for name, content in (("b.jpg", b"2"), ("a.jpg", b"1")):
        (folder / "images" / name).write_bytes(content)
    for part in ("train", "val"):
        (folder / f"{part}.json").write_text("{}")
    empty = hashlib.sha256(b"{}").hexdigest()
    images = hashlib.sha256(b"a.jpg\x001" + b"b.jpg\x002").hexdigest()
    return sets.DataSet("facemask", "facemask", QUICKSTART, "somewhere", empty, empty, images), tmp_path


def test_files_that_are_not_those_of_the_results_are_refused(accuracy, small_set):
    dataset, data = small_set
    dataset.check(data)
    (data / "facemask" / "images" / "c.jpg").write_bytes(b"3")
    with pytest.raises(SystemExit, match="images: expected sha256 .* make it again from somewhere"):
        dataset.check(data)
    (data / "facemask" / "val.json").write_text("{ }")
    with pytest.raises(SystemExit, match="val.json: expected sha256 4413.*, got "):
        dataset.check(data)
    (data / "facemask" / "train.json").unlink()
    with pytest.raises(
        SystemExit, match="facemask: expected .*train.json, it does not exist; it is made from somewhere"
    ):
        dataset.check(data)
    with pytest.raises(SystemExit, match="--data: expected the folder that has facemask/ in it"):
        dataset.check(None)


def test_a_job_is_given_the_files_of_its_set(accuracy, tmp_path):
    sets = accuracy("sets").SETS
    folder = tmp_path / "facemask"
    assert sets["facemask"].files(tmp_path) == [
        *("--train-json", f"{folder / 'train.json'}", "--train-images", f"{folder / 'images'}"),
        *("--val-json", f"{folder / 'val.json'}", "--val-images", f"{folder / 'images'}"),
    ]
    trees = sets["trees_fold1"].files(None)
    assert trees[1] == f"{trees[3]}.json"
    assert [Path(trees[i]).name for i in (3, 7)] == ["fold1_train", "fold1_val"]
    strip = sets["quickstart"].files(None)
    cache = ROOT / ".cache" / "quickstart"
    assert [Path(strip[i]) for i in (1, 3)] == [cache / "trees_train.json", cache / "trees_train"]
    assert [Path(strip[i]) for i in (5, 7)] == [cache / "trees_val.json", cache / "trees_val"]
