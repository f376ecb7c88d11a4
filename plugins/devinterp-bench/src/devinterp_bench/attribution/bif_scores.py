"""Scores of the Bayesian influence function: the covariance of losses over the posterior."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import xarray as xr
from torch import nn

from devinterp.errors import DivergenceWarning
from devinterp.slt.sampling import sample
from devinterp_bench.attribution.shapes import Rows, Shape, row_losses


def bif_scores(
    shape: Shape,
    model: nn.Module,
    candidates: Rows,
    queries: Rows,
    *,
    kernel: str = "baoab",
    only: str | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Compute the Bayesian influence of candidates on queries.

    Parameters
    ----------
    shape : Shape
        Whose posterior is sampled, at inverse temperature 1: n_beta is the number of labels.
    model : torch.nn.Module
        Trained on all candidates.
    candidates, queries : tuple of torch.Tensor
        Inputs and labels.
    kernel : str, default: "baoab"
        Sampling method.
    only : str, optional
        The weight restriction. None samples all weights.
    seed : int, default: 0
        Of the chains.

    Returns
    -------
    numpy.ndarray
        ``(query, candidate)``; larger for a candidate that lowers the query's loss more.
    """
    how, observables = shape.posterior, {"candidates": candidates, "queries": queries}
    size = how.batch_size
    assert not any(len(rows[0]) % size for rows in observables.values()), "whole observables are recorded"
    with warnings.catch_warnings():
        warnings.simplefilter("error", DivergenceWarning)  # scores of fewer chains would not be those of this setting
        tree = sample(
            model,
            candidates,
            {name: (rows, len(rows[0]) // size) for name, rows in observables.items()},
            loss_fn=row_losses,
            param_masks=only,
            sampling_method=kernel,
            lr=how.lr[kernel],
            n_beta=float(candidates[1].numel()),
            localization=how.localization,
            llc_weight_decay=candidates[1].numel() * shape.training.decay,
            batch_size=size,
            num_chains=how.num_chains,
            num_draws=how.num_draws,
            num_burnin_steps=how.num_burnin_steps,
            num_steps_bw_draws=how.num_steps_bw_draws,
            init_seed=seed,
            progress=False,
        )
    assert isinstance(tree, xr.DataTree)
    influences = tree.slt.bif(method="sequence", compute_covariance=True, queries="queries", candidates="candidates")
    # An observable holds its rows in an order of its own.
    order = {name: np.argsort(tree[f"observables/{name}"].sequence_id.values) for name in observables}
    return np.asarray(influences["influences"].values[order["queries"]][:, order["candidates"]], dtype=np.float64)


def shortened(shape: Shape, num_draws: int) -> Shape:
    """Return a shape that is sampled with fewer draws, and as many steps before the first."""
    return replace(shape, posterior=replace(shape.posterior, num_draws=num_draws, num_burnin_steps=num_draws))
