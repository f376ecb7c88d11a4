"""The notebooks of the tutorials: valid, without outputs, and each runs from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.ipynb"))
#: The one that takes seconds; the others are slow, and run whenever the site is built.
SMALLEST = "plugin"


def notebooks() -> list[object]:
    marks = {path.stem: () if path.stem == SMALLEST else (pytest.mark.slow,) for path in NOTEBOOKS}
    return [pytest.param(path, id=path.stem, marks=marks[path.stem]) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_valid_and_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"{path.name}: clear its outputs; they are made when the site is built"
            assert cell.execution_count is None
            compile(cell.source, path.name, "exec")
    assert f"download it <{path.name}>" in notebook.cells[0].source


@pytest.mark.parametrize("path", notebooks())
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    # In an interpreter of its own; an error in a cell is raised here.
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
