"""What the documents point at is there: functions by file and name, config keys with their values."""

import fnmatch
import functools
import re
from pathlib import Path

import detectron2.config
import pytest
from yacs.config import CfgNode

import libra_d2

ROOT = Path(libra_d2.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.md"))]


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


def test_the_readme_says_the_defaults():
    """`NODE.{A 1, B x\\|y}`: each key with its default, or with its choices, the default first."""
    cfg, seen = libra_d2.get_cfg(), 0
    for node, keys in re.findall(r"`([A-Z0-9_.]+)\.\{([^}]+)\}`", (ROOT / "README.md").read_text()):
        for pair in keys.split(", "):
            key, _, value = pair.partition(" ")
            actual = functools.reduce(getattr, f"{node}.{key}".split("."), cfg)
            if value:
                seen += 1
                assert value.split("\\|")[0].strip('"') == str(actual), f"{node}.{key}"
    assert seen > 20


def test_the_checks_above_check_something():
    text = (ROOT / "docs" / "paper_to_code.md").read_text()
    assert "csrc/cuda/bucketed_sample.cuh" in text
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
