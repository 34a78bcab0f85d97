"""The notebook runs from its first cell to its last, on a CPU."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"


def test_it_is_a_notebook_without_paths_of_a_machine():
    nbformat.validate(nbformat.read(QUICKSTART, as_version=4))
    text = QUICKSTART.read_text()
    assert not any(place in text for place in ("/work/", "/root/", "/home/")) and len(text) < 1_500_000


@pytest.mark.slow
def test_it_runs_with_the_demo_model(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(QUICKSTART, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(QUICKSTART.parent)}}).execute()
    shown = [data for cell in notebook.cells for each in cell.get("outputs", []) for data in each.get("data", {})]
    assert shown.count("image/png") >= 3 and "text/html" in shown
