"""The Bayesian influence function, under the import path of DevInterp 2."""

from __future__ import annotations

from typing import Any, Literal

import xarray as xr

from devinterp.analyses import bif as analysis
from devinterp.slt.one_call import of_each_run, sample_then, with_options_of

__all__ = ["bif", "compute_bif"]


@with_options_of(analysis.compute_bif)
def compute_bif(
    samples: xr.DataTree,
    method: Literal["token", "sequence"] = "token",
    *,
    batch_size: int = 32,
    device: Any = None,
    **options: Any,
) -> xr.Dataset:
    """Compute the Bayesian influence function of a run, or of each of several in one tree.

    Parameters
    ----------
    samples : xarray.DataTree
        A sampling run, or a tree of several, whose results are joined as `devinterp.runs.join` says.
    method : {"token", "sequence"}, default: "token"
        Between the losses of tokens, or between the mean losses of sequences.
    batch_size, device : object, optional
        Ignored: blocks are chosen by their size in memory, and matrices are multiplied on the CPU.
    **options : Any
        As for `devinterp.analyses.bif.compute_bif`.

    Returns
    -------
    xarray.Dataset
        As `devinterp.analyses.bif.compute_bif`.
    """
    result: xr.Dataset = of_each_run(analysis.compute_bif, samples, method, **options)
    return result


bif = sample_then(compute_bif, "bif", renamed={"bif_batch_size": "batch_size", "bif_device": "device"})
