"""Pictures of a study: lines along what varies, bands of their errors, marks of bad verdicts, heat maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import FillBetweenPolyCollection, PathCollection

from devinterp.errors import InvalidInputError
from devinterp.testing import synthetic_tree

CHECKPOINTS, SEEDS = (0, 1, 10, 100), (1, 2)


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    root = xr.DataTree()
    for checkpoint in CHECKPOINTS:
        for seed in SEEDS:
            run = synthetic_tree(num_restrictions=2, num_draws=30, seed=10 * seed + checkpoint)
            labels = {"checkpoint": checkpoint, "seed": seed}
            dims = {"checkpoint": ["checkpoint"], "seed": ["seed"]}
            provenance = {**json.loads(run.attrs["provenance"]), "notes": {"study": {"labels": labels, "dims": dims}}}
            run.attrs["provenance"] = json.dumps(provenance)
            root[f"checkpoint={checkpoint},seed={seed}"] = run
    return root


def test_a_line_for_each_restriction_and_seed_with_bands_and_marks(tree: xr.DataTree) -> None:
    figure = tree.slt.plot.llc(x="checkpoint")
    (ax,) = figure.axes
    llc = tree.slt.llc()
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(CHECKPOINTS)]
    assert len(lines) == 4
    expected = [llc["paired_llc_mean"].isel(restriction=r, seed=s).values for r in range(2) for s in range(2)]
    for line, values in zip(lines, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values)
        assert line.get_xdata().tolist() == list(CHECKPOINTS)
    bands = [each for each in ax.collections if isinstance(each, FillBetweenPolyCollection)]
    assert len(bands) == 4
    error = llc["paired_llc_se"].isel(restriction=0, seed=0).values
    heights = bands[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(heights.max(), (expected[0] + error).max(), rtol=1e-6)
    assert ax.get_xscale() == "symlog"  # labels are logarithmic, with a zero
    marks = [each for each in ax.collections if isinstance(each, PathCollection)]
    bad = int(llc["verdict"].isin(["reject", "warning"]).sum()) * 2
    assert sum(len(each.get_offsets()) for each in marks) == bad
    assert tree.slt.plot.llc(x="seed").axes[0].get_xscale() == "linear"


def test_a_heat_map(tree: xr.DataTree) -> None:
    with pytest.raises(InvalidInputError, match="needs one label along restriction"):
        tree.slt.plot.llc(x="checkpoint", y="seed")
    single = xr.DataTree(children={name: run.isel(restriction=0) for name, run in tree.children.items()})
    image = single.slt.plot.llc(x="checkpoint", y="seed").axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), single.slt.llc()["paired_llc_mean"].transpose("seed", "checkpoint"))


def test_what_cannot_be_drawn(tree: xr.DataTree) -> None:
    with pytest.raises(InvalidInputError, match="'lr' must be a dimension of the study: checkpoint, seed"):
        tree.slt.plot.llc(x="lr")
    with pytest.raises(InvalidInputError, match="this is a single run"):
        next(iter(tree.children.values())).slt.plot.llc(x="checkpoint")
