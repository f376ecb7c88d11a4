"""The local learning coefficient, under the import path of DevInterp 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.slt._one_call import takes_sampling_arguments
from devinterp.slt.sampling import sample

if TYPE_CHECKING:
    from torch import nn

__all__ = ["compute_llc", "llc", "token_llc"]


@takes_sampling_arguments
def llc(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any] | None = None,
    *,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    **sampling: Any,
) -> xr.Dataset:
    """Sample around a model's weights and compute their local learning coefficient.

    Parameters
    ----------
    model, dataset, observables : object
        As for `devinterp.slt.sampling.sample`.
    burnin : int, optional
        Steps to leave out; default: ``num_burnin_steps``.
    chains : {"all", "finished"}, default: "all"
        Refuse a run in which a chain diverged, or use the others.
    **sampling : Any
        Every other argument of `devinterp.slt.sampling.sample`; ``lr`` and ``n_beta`` are needed.

    Returns
    -------
    xarray.Dataset
        As `devinterp.analyses.llc.compute_llc`.
    """
    return compute_llc(sample(model, dataset, observables, **sampling), burnin=burnin, chains=chains)
