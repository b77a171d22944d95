"""docs/own_data.ipynb runs from top to bottom and finds discs and squares; the file itself has no outputs."""

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import libra_d2

NOTEBOOK = Path(libra_d2.__file__).parents[1] / "docs" / "own_data.ipynb"


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / ".ipython"))
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    check, metrics, picture, objects = cells[1], cells[3], cells[5], cells[6]
    assert "0 errors, 0 warnings" in text_of(check)
    found = [float(ap) for ap in re.findall(r"iteration \d+: AP ([\d.]+)", text_of(metrics))]
    assert len(found) == 2
    assert max(found) > 5  # from nothing; 25 to 45 as a rule
    assert "balance/negatives/bin2/drawn" in text_of(metrics)
    assert "image/png" in picture.outputs[0]["data"]
    assert re.search(r"^(disc|square) ", text_of(objects), re.MULTILINE)
