"""The clusters of a report: those of the analysis, in their texts, or why there are none."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr

from devinterp.testing import synthetic_tree
from devinterp_view import clusters as section
from devinterp_view.report import render
from support.report_page import Page

structure = pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """Return a run in which the tokens of even and of odd texts answer to other restrictions."""
    tree = synthetic_tree(
        num_restrictions=5, num_chains=3, num_draws=60, observables={"train": (4, 9), "code": (24, 11)}
    )
    loss = tree["observables/code/loss"]
    mean = loss.mean(["chain", "draw"])
    moves, even = loss - mean, xr.DataArray(np.arange(24) % 2 == 0, dims="sequence")
    restriction = xr.DataArray(np.arange(5), dims="restriction")
    factor = xr.where(even, xr.where(restriction == 1, 6.0, 1.0), xr.where(restriction == 2, 6.0, 1.0))
    common = moves.mean(["sequence", "position"])
    dataset = tree["observables/code"].to_dataset()
    dataset["loss"] = (mean + factor * common + 0.05 * moves).transpose(*loss.dims).astype(loss.dtype)
    nodes = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    return xr.DataTree.from_dict({**nodes, "/observables/code": dataset})


def test_the_table_is_that_of_the_analysis(tree):
    page = Page(render(tree, sampling_task="train"))
    matrix = structure.response_matrix(tree, "train", leave_out_chains=False)
    found = structure.clusters(matrix)
    expected = structure.cluster_table(found)
    assert len(expected) >= 2
    rows = page.cells["cluster-table"][1:]
    assert [row[0] for row in rows] == [str(label) for label in expected["cluster"]]
    assert [int(row[1]) for row in rows] == expected["size"].tolist()
    np.testing.assert_allclose([float(row[3]) for row in rows], expected["conductance"])
    text = page.texts["clusters"]
    assert expected["examples"][0][0] in text
    by_chance = int(structure.clusters(structure.gaussian_null(matrix))["cluster"].max()) + 1
    assert f"which has none, {by_chance} are found" in text
    assert "z_score" in text
    assert any(tag == "a" and attrs.get("href") == "#clusters" for tag, attrs in page.tags)
    # Even and odd texts have no cluster in common.
    groups = [
        set((found["text"].values[found["cluster"].values == label] % 2).tolist()) for label in expected["cluster"][:2]
    ]
    assert groups in ([{0}, {1}], [{1}, {0}])


def test_texts_of_tokens_cannot_be_markup(tree):
    class Hostile:
        def decode(self, ids, **_):
            return "".join(f"<script>alert({int(i)})</script>" for i in np.atleast_1d(ids))

    html = render(tree, sampling_task="train", tokenizer=Hostile())
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


@pytest.mark.heavy
def test_pages_of_a_study_have_them_too(tree):
    study = xr.DataTree(children={"one": tree.copy(), "two": tree.copy()})
    page = Page(render(study, sampling_task="train"))
    assert page.cells["cluster-table-0"] == Page(render(tree, sampling_task="train")).cells["cluster-table"]


def test_of_too_many_tokens_it_says_what_computes_them(tree, monkeypatch):
    monkeypatch.setattr(section, "_MOST_TOKENS", 100)
    page = Page(render(tree, sampling_task="train"))
    assert "No clusters: of 240 tokens clusters take longer than a page may (limit 100)" in page.texts["clusters"]
    assert "cluster-table" not in page.cells


def test_a_run_that_has_none_has_no_section(tree, monkeypatch):
    few = synthetic_tree(num_restrictions=3, num_draws=20, observables={"train": (4, 9), "code": (24, 11)})
    assert "clusters" not in Page(render(few, sampling_task="train")).texts
    monkeypatch.setitem(sys.modules, "devinterp_structure", None)
    monkeypatch.setattr(section.importlib.util, "find_spec", lambda name: None)
    assert "clusters" not in Page(render(tree, sampling_task="train")).texts
