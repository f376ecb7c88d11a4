"""The example of a study: heads of a small transformer, while it learns induction."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn.functional import cross_entropy

import devinterp
from devinterp import cli
from devinterp.studies.plan_file import read_plan

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("*.zarr", "__pycache__"))
    return folder


@pytest.fixture(scope="module")
def tree(folder: Path) -> xr.DataTree:
    assert cli.run(["study", str(folder / "induction.toml"), "--workers", "2", "--no-progress"]) == 0
    return devinterp.open(folder / "induction.zarr")


def in_context_loss(folder: Path) -> xr.DataArray:
    """Return the loss on the repeated half of the texts, ``(checkpoint, seed)``."""
    plan = read_plan(folder / "induction.toml")
    load, texts, steps = plan["models"], plan["dataset"], plan["over"]["checkpoint"]
    half = texts.shape[1] // 2
    losses = np.zeros((len(steps), len(SEEDS)))
    for place in np.ndindex(losses.shape):
        model = load(steps[place[0]], SEEDS[place[1]])
        with torch.no_grad():
            logits = model(texts)
        losses[place] = cross_entropy(logits[:, half:-1].flatten(0, 1), texts[:, half + 1 :].flatten())
    return xr.DataArray(losses, {"checkpoint": steps, "seed": list(SEEDS)}, ("checkpoint", "seed"))


@pytest.mark.slow
def test_coefficients_of_heads_rise_where_the_in_context_loss_drops(folder: Path, tree: xr.DataTree) -> None:
    loss, llc = in_context_loss(folder), tree.slt.llc()
    assert llc["paired_llc_mean"].sizes == {"checkpoint": 24, "seed": 2, "restriction": 10}
    share = loss / loss.isel(checkpoint=0)
    before = int(
        loss["checkpoint"][(share > 0.9).all("seed")].max()
    )  # the last checkpoint before the drop, in both seeds
    after = int(loss["checkpoint"][(share < 0.1).all("seed")].min())
    assert 0 < before < after < 400
    heads = [name for name in llc["restriction"].values if name.startswith("l1h")]

    def coefficient(checkpoint: int) -> tuple[xr.DataArray, xr.DataArray]:
        at = {"checkpoint": checkpoint}
        return llc["paired_llc_mean"].sel(at), llc["paired_llc_se"].sel(at)

    (low, low_error), (high, high_error) = coefficient(before), coefficient(after)
    error = np.hypot(low_error, high_error)
    # Both layers, and a head of the second, are more complex after the drop by far more than the error, in both seeds.
    jump = (high - low) / error
    assert (jump.sel(restriction=["l0", "l1"]) > 5).all()
    assert (jump.sel(restriction=heads).max("restriction") > 5).all()
    # Before it they hardly change: most of what has happened by its end happened during the drop.
    start, _ = coefficient(0)
    layer = {"restriction": "l1"}
    assert (abs(low - start).sel(layer) < 0.3 * (high - start).sel(layer)).all()


@pytest.mark.slow
def test_two_workers_give_what_one_gives(folder: Path, tree: xr.DataTree) -> None:
    assert len(tree.children) == 48
    assert cli.run(["replay", str(folder / "induction.zarr"), "--run", "checkpoint=100,seed=1"]) == 0


def test_the_plan_and_its_module_are_whole(folder: Path) -> None:
    plan = read_plan(folder / "induction.toml")
    assert len(plan["over"]["checkpoint"]) == 24
    assert plan["over"]["checkpoint"][-1] == 400
    module = sys.modules[plan["models"].__module__]
    model = module.Transformer()
    assert model(plan["dataset"][:2]).shape == (2, 24, 24)
    assert len(plan["weight_restrictions"](model)) == 10
