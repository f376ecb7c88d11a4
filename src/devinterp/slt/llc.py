"""The local learning coefficient, under the import path of DevInterp 2."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp.analyses import llc as analysis
from devinterp.analyses.llc import token_llc
from devinterp.slt.estimators import LLCEstimator, OnlineLLCEstimator
from devinterp.slt.one_call import of_each_run, sample_then, with_options_of

__all__ = ["LLCEstimator", "OnlineLLCEstimator", "compute_llc", "llc", "token_llc"]


@with_options_of(analysis.compute_llc)
def compute_llc(samples: xr.DataTree, **options: Any) -> xr.Dataset:
    """Compute the local learning coefficient of a run, or of each of several in one tree.

    Parameters
    ----------
    samples : xarray.DataTree
        A sampling run, or a tree of several, whose results are joined as `devinterp.runs.join` says.
    **options : Any
        As for `devinterp.analyses.llc.compute_llc`.

    Returns
    -------
    xarray.Dataset
        As `devinterp.analyses.llc.compute_llc`, and ``llc_scalar``, DevInterp 2's second name of ``llc_mean``.
    """
    result: xr.Dataset = of_each_run(analysis.compute_llc, samples, **options)
    return result.assign(llc_scalar=result["llc_mean"])


llc = sample_then(compute_llc, "llc")
