"""The learning coefficients in a result of `compute_llc` side by side, the most precise of the run first."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.schema import CHAIN

#: Labels of the coefficient of a run from the losses of the same minibatches at w and w0, and of DevInterp 2's.
PAIRED, MINIBATCHES = "paired", "minibatches"
#: The dimension along which coefficients stand side by side.
ESTIMATE = "estimate"
_OBSERVABLE = "observable"
_COLUMNS = {"mean": "llc_mean", "se": "llc_se", "per_chain": "llc_per_chain", "rhat": "rhat", "ess": "ess"}


def estimates(result: xr.Dataset) -> xr.Dataset:
    """Return the coefficients in a result side by side: paired, DevInterp 2's, and those of observables.

    Parameters
    ----------
    result : xarray.Dataset
        From `devinterp.analyses.llc.compute_llc`, of one run or of several that were joined.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``se``, ``lower`` and ``upper`` (of the 95 % interval), ``rhat``, ``ess`` ``(estimate)`` and
        ``per_chain(estimate, chain)``, over ``restriction`` and what else a result has. ``estimate`` is labelled ``"paired"``
        (where the run stores what it needs), ``"minibatches"`` and by the names of observables; ``variable(estimate)`` says
        which variable of the result the mean is, ``reason`` why there is no error, where there is none.
    """
    prefixes = [(PAIRED, "paired_")] if "paired_llc_mean" in result else []
    parts = [_columns(result, prefix) for _, prefix in [*prefixes, (MINIBATCHES, "")]]
    labels = [label for label, _ in prefixes] + [MINIBATCHES]
    if _OBSERVABLE in result.dims:
        of_observables = _columns(result, f"{_OBSERVABLE}_")
        for name in result[_OBSERVABLE].to_numpy():
            parts.append(of_observables.sel({_OBSERVABLE: name}, drop=True))
            labels.append(str(name))
    joined = xr.concat(
        parts,
        xr.Variable((ESTIMATE,), np.array(labels, dtype=object)),
        data_vars="all",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="drop",
    )
    dims = [dim for dim in joined["mean"].dims if dim != ESTIMATE]
    return joined.transpose(*dims, ESTIMATE, CHAIN, missing_dims="ignore")


def _columns(result: xr.Dataset, prefix: str) -> xr.Dataset:
    """Return the columns of the coefficients whose variables have this prefix."""
    columns = xr.Dataset({new: result[prefix + old].drop_attrs() for new, old in _COLUMNS.items()})
    interval = confidence_interval(result, f"{prefix}llc_mean")
    reason = str(result[f"{prefix}llc_se"].attrs.get("reason", ""))
    return columns.assign(
        lower=interval["lower"].drop_attrs(),
        upper=interval["upper"].drop_attrs(),
        variable=xr.Variable((), np.array(f"{prefix}llc_mean", dtype=object)),
        reason=xr.full_like(columns["se"], reason, dtype=object).where(columns["se"].isnull(), ""),
    )
