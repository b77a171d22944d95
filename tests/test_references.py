"""What the documents point at is there: functions by file and name, config keys with their values."""

import fnmatch
import functools
import importlib
import re
import runpy
import shlex
from pathlib import Path

import detectron2.config
import pytest
from detectron2 import modeling
from yacs.config import CfgNode

import libra_d2
from libra_d2 import model_zoo
from libra_d2.config.files import config_names
from libra_d2.losses import BOX_LOSS_REGISTRY

ROOT = Path(libra_d2.__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
KEYS = ROOT / "docs" / "config.md"


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_exist(page):
    named = re.findall(r"\b((?:benchmarks|configs|csrc|docs|libra_d2|tests|tools)/[\w./-]+\.\w+)", page.read_text())
    assert [file for file in named if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_functions_and_classes_exist(page):
    named = re.findall(r"((?:libra_d2|tests|tools)/[\w/]+\.py)::(\w+)", page.read_text())
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^\s*(?:def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_config_keys_exist_and_defaults_are_right(page):
    """A key is written `KEY`, or `KEY VALUE`; a number behind it is its default: `KEY` 0.5."""
    cfg = libra_d2.get_cfg()
    for key, value, default in re.findall(
        r"`(MODEL\.[A-Z0-9_.]*[A-Z0-9])(?: ([^`]+))?`(?: ([\d.]+) \|)?", page.read_text()
    ):
        node = functools.reduce(getattr, key.split("."), cfg)
        assert not isinstance(node, CfgNode) or not value, key
        if value and not isinstance(node, str):
            assert isinstance(type(node)(eval(value)), type(node)), key
        if default:
            node = node[0] if isinstance(node, list) else node
            assert node == float(default), key


def _commands(page):
    """(command, arguments) of each ``libra-d2`` line in the blocks of a page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    text = "".join(block for language, block in blocks if language != "python").replace("\\\n", " ")
    return re.findall(r"^ *libra-d2 ([\w-]+) ?(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_take_the_arguments_that_the_page_gives_them(page):
    for command, arguments in _commands(page):
        parser = importlib.import_module(f"libra_d2.cli.{command.replace('-', '_')}").argument_parser(command)
        args = parser.parse_args(shlex.split(re.sub(r" \$OWN\b", "", arguments), comments=True))
        opts = getattr(args, "opts", [])
        assert not [opt for opt in opts if opt.startswith("--")], arguments
        assert set(opts[::2]) <= set(dict(_walk(libra_d2.get_cfg()))), arguments
        file = getattr(args, "config_file", None)
        assert not file or file.split("/")[0] in ("output", "rpn") or model_zoo.get_config_file(file)


def test_the_readme_lists_the_configs():
    """A row stands for its architectures, each with each of its backbones; no config of these folders is left out."""
    listed = set()
    for _, configs, backbones in (row for row in _rows(ROOT / "README.md") if "R_50" in row[-1]):
        first, *others = re.findall(r"`([\w/.]+)`", configs)
        if own := re.search(r"libra_(\w+)_R_50", first):
            names = {first.replace(own[1], architecture) for architecture in (own[1], *others)}
            listed |= {name.replace("R_50", backbone) for name in names for backbone in backbones.split(", ")}
    assert listed == {name for name in config_names() if re.match(r"((finetune|mmdet_compat)/)?libra_", name)}


def _walk(node, prefix=""):
    for key, value in node.items():
        yield from _walk(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [(prefix + key, value)]


def _rows(page):
    """The cells of the rows of all tables of a page."""
    lines = re.findall(r"^\|.*\|$", page.read_text(), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_of_keys_has_every_key_with_its_default():
    """Of the config itself, not of the list that the page is written from."""
    written = {row[0].strip("`"): row[1].strip("`") for row in _rows(KEYS) if row[1].startswith("`")}
    theirs = dict(_walk(detectron2.config.get_cfg()))
    ours = {key: value for key, value in _walk(libra_d2.get_cfg()) if key not in theirs}
    assert len(ours) > 20
    assert {key: written.get(key) for key in ours} == {key: str(value) or '""' for key, value in ours.items()}


def test_the_page_of_keys_is_as_the_tool_writes_it():
    text = KEYS.read_text()
    written = runpy.run_path(str(ROOT / "tools" / "write_config_docs.py"))["page"](text)
    assert text == written, "run python tools/write_config_docs.py"


def test_the_page_of_keys_has_every_registered_name():
    """In the table of names: those in its column are registered, and no name that libra_d2 registered is missing."""
    registries = {
        "MODEL.META_ARCHITECTURE": modeling.META_ARCH_REGISTRY,
        "MODEL.BACKBONE.NAME": modeling.BACKBONE_REGISTRY,
        "MODEL.PROPOSAL_GENERATOR.NAME": modeling.PROPOSAL_GENERATOR_REGISTRY,
        "MODEL.ROI_HEADS.NAME": modeling.ROI_HEADS_REGISTRY,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSS_REGISTRY.items(),
    }
    registered = {
        (key, name)
        for key, registry in registries.items()
        for name, thing in registry
        if thing.__module__.startswith("libra_d2.")
    }
    table, key = KEYS.read_text().partition("| key | name |")[2].partition("\n\n")[0], None
    written = set()
    for cell, name in re.findall(r"^\| (.*?)\|? ?`(\w+)` \|", table, re.MULTILINE):
        key = cell.split("`")[1] if cell else key
        written.add((key, name))
    assert written == registered


def test_the_checks_above_check_something():
    text = (ROOT / "docs" / "paper_to_code.md").read_text()
    assert "csrc/cuda/bucketed_sample.cuh" in text
    assert len(_commands(ROOT / "README.md")) > 5
    assert text.count("::") > 20
    assert len(re.findall(r"`MODEL\.[A-Z0-9_.]+[^`]*` [\d.]+ \|", text)) >= 6


def test_every_key_of_detectron2_is_accounted_for():
    keys = set(_leaves(detectron2.config.get_cfg()))
    table = (ROOT / "docs" / "detectron2_keys.md").read_text().split("|---|---|")[1]
    patterns = [p for line in table.splitlines() if line for p in re.findall(r"`([^`]+)`", line.split("|")[1])]
    found = {pattern: set(fnmatch.filter(keys, pattern)) for pattern in patterns}
    assert not [pattern for pattern, matched in found.items() if not matched]
    assert keys - set().union(*found.values()) == set()


def _leaves(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name
