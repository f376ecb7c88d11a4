"""Every method on every shape: how well its scores predict the bank, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from torch import nn

from devinterp_attribution import lds
from devinterp_bench.attribution.bank import Retraining, train
from devinterp_bench.attribution.baselines import ekfac_scores, feature_similarity, trak_scores
from devinterp_bench.attribution.bif_scores import bif_scores
from devinterp_bench.attribution.shapes import Rows, Shape

Method = Callable[[Shape, nn.Module, Rows, Rows], np.ndarray]


@dataclass(frozen=True)
class Scored:
    """How well a method predicts losses of retrained models.

    Parameters
    ----------
    shape, method : str
        Names.
    lds, lds_se : float
        The linear datamodelling score and its standard error.
    ceiling, ceiling_se : float
        The score that exact predictions would have.
    seconds_per_query : float
        Processor time of all scores, divided by the number of queries.
    """

    shape: str
    method: str
    lds: float
    lds_se: float
    ceiling: float
    ceiling_se: float
    seconds_per_query: float


def methods(shape: Shape) -> dict[str, Method]:
    """Return the methods by name; those of the last layer alone only where there is another."""
    kernels: dict[str, Method] = {
        f"BIF, {kernel.upper()}": partial(bif_scores, kernel=kernel) for kernel in shape.posterior.lr
    }
    last: dict[str, Method] = {
        f"BIF, {kernel.upper()}, last layer": partial(bif_scores, kernel=kernel, only=shape.last_layer)
        for kernel in shape.posterior.lr
    }
    single = len([each for each in shape.model().modules() if list(each.parameters(recurse=False))]) == 1
    others: dict[str, Method] = {
        "EK-FAC (kronfluence)": ekfac_scores,
        "TRAK (dattri)": trak_scores,
        "likeness of features": feature_similarity,
    }
    return kernels | ({} if single else last) | others


def compare(shape: Shape, measured: xr.Dataset, how: Retraining) -> Iterator[Scored]:
    """Yield what each method reaches on a shape.

    Parameters
    ----------
    shape : Shape
        The model and its data.
    measured : xarray.Dataset
        Its bank.
    how : Retraining
        Whose seed is that of the model of all the data, too.
    """
    candidates, queries = shape.data()
    seed = int(np.random.default_rng([how.seed, 2]).integers(2**62))
    model = train(shape, candidates, np.arange(len(candidates[0])), seed)
    for name, method in methods(shape).items():
        began = time.process_time()
        scores = method(shape, model, candidates, queries)
        seconds = time.process_time() - began
        result = lds(scores, measured["losses"], measured["membership"])
        figures = {key: float(result[key]) for key in ("lds", "lds_se", "ceiling", "ceiling_se")}
        yield Scored(shape=shape.name, method=name, seconds_per_query=seconds / len(queries[0]), **figures)
