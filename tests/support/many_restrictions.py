"""Restrictions that sample alike elements, and runs of them one after the other and side by side, compared."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from support.small_models import WIDTH, deep, ids, run, same_numbers, snapshot

RTOL = 1e-4


def rows(number: int, *, layer: int = 2) -> dict[str, Tensor]:
    """Return a mask of two rows of a layer's matrix, as heads have them, and as much of its bias."""
    chosen = torch.zeros(WIDTH, dtype=torch.bool)
    chosen[2 * number : 2 * number + 2] = True
    return {f"layers.{layer}.mix.weight": chosen[:, None].expand(WIDTH, WIDTH), f"layers.{layer}.mix.bias": chosen}


HEADS = {f"l{layer}h{n}": rows(n, layer=layer) for layer in (1, 2) for n in range(3)}


def both(model: nn.Module | None = None, **changes: Any) -> tuple[xr.DataTree, xr.DataTree]:
    """Return a run with everything one after the other and one side by side, after comparing them."""
    model = deep() if model is None else model
    before = snapshot(model)
    options = {
        "observables": {"code": ids("code")}, "save_metrics": True, "weight_restrictions": HEADS, "num_draws": 6, **changes
    }  # fmt: skip
    one, other = (run(model, chains=chains, **options) for chains in ("sequential", "vectorized"))
    assert snapshot(model) == before
    compare(one, other)
    return one, other


def compare(one: xr.DataTree, other: xr.DataTree) -> None:
    """Assert that two runs agree, and that this says something: chains of the same number differ between restrictions."""
    for path in ("trace/loss", "observables/code/loss"):
        np.testing.assert_allclose(other[path], one[path], rtol=RTOL, err_msg=path)
    for name, values in one["metrics"].data_vars.items() if "metrics" in one.children else ():
        largest = float(np.nanmax(np.abs(values), initial=0))  # dot products may cancel
        np.testing.assert_allclose(
            other[f"metrics/{name}"], values, rtol=RTOL, atol=RTOL * largest, err_msg=f"metrics/{name}"
        )
    last = one["trace/loss"].to_numpy()[:, :, -1].reshape(-1, one["trace/loss"][0, 0, -1].size)
    assert all(np.nanmax(np.abs(a / b - 1)) > 20 * RTOL for a, b in itertools.pairwise(last))


def same_draws(one: xr.DataTree, other: xr.DataTree) -> None:
    """Assert that two runs hold the same arrays; losses of rows at w0 to rounding: they were measured in other batches."""
    orders = [np.argsort(tree["trace/row_id"].to_numpy()) for tree in (one, other)]
    of_rows = [tree["trace/row_loss"].to_numpy()[order] for tree, order in zip((one, other), orders, strict=True)]
    np.testing.assert_allclose(*of_rows, rtol=1e-6)
    same_numbers(*(_without_rows(tree) for tree in (one, other)))


def _without_rows(tree: xr.DataTree) -> xr.DataTree:
    without = tree.copy()
    trace = tree["trace"].to_dataset(inherit=False)
    without["trace"] = xr.DataTree(trace.drop_vars([name for name in trace.variables if str(name).startswith("row")]))
    return without
