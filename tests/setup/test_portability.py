"""`make test-portable` on tests of its own, two environments instead of all."""

import pytest

TEST = """
import os

def test_a_processor():
    assert os.environ.get("ATEN_CPU_CAPABILITY") != "{refused}"
    assert os.environ["OMP_NUM_THREADS"] in "12"
"""


@pytest.mark.parametrize(("refused", "status"), [("default", 1), ("avx512", 0)])
def test_environments_that_fail_are_named(refused, status, tmp_path, monkeypatch, capsys):
    import portability

    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TEST.format(refused=refused))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")  # what is set outside does not reach the tests
    monkeypatch.setattr(portability, "ROOT", tmp_path)
    monkeypatch.setattr(portability, "TESTS", ["test_it.py"])
    monkeypatch.setattr(portability, "THREADS", [2])
    some = ("this processor", "torch without AVX")
    monkeypatch.setattr(portability, "PROCESSORS", {name: portability.PROCESSORS[name] for name in some})
    assert portability.main([]) == status
    summary = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert [(line.split()[0], line.split("  ")[-1]) for line in summary if " s  " in line] == [
        ("passed", "this processor, 2 threads"),
        ("FAILED" if status else "passed", "torch without AVX, 2 threads"),
    ]
    assert sum("tests/test_it.py::test_a_processor" in line for line in summary) == status


def test_tests_that_are_not_there_are_a_failure(tmp_path, monkeypatch, capsys):
    import portability

    monkeypatch.setattr(portability, "ROOT", tmp_path)
    monkeypatch.setattr(portability, "THREADS", [1])
    monkeypatch.setattr(portability, "PROCESSORS", {"this processor": (None, None, None)})
    assert portability.main([]) == 1
