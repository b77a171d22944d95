"""benchmarks/instructions.py reads callgrind's dumps, and notices what has grown, shrunk, come or gone."""

import importlib.util
from pathlib import Path

import pytest

import libra_d2

SCRIPT = Path(libra_d2.__file__).parents[1] / "benchmarks" / "instructions.py"
DUMP = """# callgrind format
version: 1
pid: 7
part: 2

desc: I1 cache:
desc: Timerange: Basic block 0 - 10
desc: Trigger: Client Request: sample, 100

positions: line
events: Ir
summary: 187817

fn=(1) main
0 187817

totals: 187817
"""


@pytest.fixture(scope="module")
def instructions():
    spec = importlib.util.spec_from_file_location("instructions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dump_of_callgrind_is_read(instructions):
    assert instructions.parsed(DUMP) == ("sample, 100", 187817)


def test_what_is_not_as_in_the_table_is_said(instructions):
    expected = {"same": 1000, "grown": 1000, "shrunk": 1000, "gone": 1000}
    lines = instructions.compare({"same": 1029, "grown": 1031, "shrunk": 900, "new": 5}, expected)
    assert [line.split(":")[0] for line in lines] == ["grown", "shrunk", "gone", "new"]
    assert lines[0] == "grown: expected 1,000 instructions, got 1,031 (+3.1%)"


def test_the_table_has_the_cases(instructions):
    assert all(count > 0 for count in instructions.read().values())
    assert len(instructions.read()) == 7
