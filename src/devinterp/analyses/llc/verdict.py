"""What a learning coefficient itself says of whether it can be used: its R-hat, its chains, its error, the temperature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.arrays import is_lazy
from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.common.run_data import draws_after
from devinterp.analyses.common.virial import expected_temperature, mean_temperature
from devinterp.schema import CHAIN, METRICS
from devinterp.types import SEVERITIES


def verdict_attrs(result: Mapping[str, xr.Variable], run: xr.DataTree, burnin: int) -> dict[str, Any]:
    """Return the attributes ``verdict`` and ``findings`` of a result of `devinterp.analyses.llc.compute_llc`.

    Nothing is computed for a lazy result. The limits are those of ``tree.slt.diagnose()``, which looks at more.

    Parameters
    ----------
    result : mapping of xarray.Variable
        The variables of the result, over restrictions.
    run : xarray.DataTree
        The run of finished chains.
    burnin : int
        Steps that were left out.
    """
    if any(map(is_lazy, result.values())):
        return {"verdict": "not judged, because it is lazy: call `tree.slt.diagnose()`"}
    found: dict[str, str] = {}
    for code, name, values in _figures(result, run, burnin):
        for value in values.ravel().tolist():
            judged = LIMITS[name].judge(value)
            if judged is not None:
                found[code] = max(found.get(code, SEVERITIES[0]), judged[0], key=SEVERITIES.index)
    return {
        "verdict": max(found.values(), key=SEVERITIES.index, default=SEVERITIES[0]),
        "findings": sorted(found, key=lambda code: (-SEVERITIES.index(found[code]), code)),
    }


def _figures(result: Mapping[str, xr.Variable], run: xr.DataTree, burnin: int) -> list[tuple[str, str, np.ndarray]]:
    """Return figures of all restrictions with their code and the name of their limit."""
    prefix = "paired_" if "paired_llc_mean" in result else ""
    mean, error = result[f"{prefix}llc_mean"].values, result[f"{prefix}llc_se"].values
    per_chain = result[f"{prefix}llc_per_chain"].transpose(..., CHAIN).values
    figures = [
        ("chains_disagree", "rhat", result[f"{prefix}rhat"].values),
        ("too_little_signal", "signal", mean / np.where(error > 0, error, np.nan)),
        ("loss_decreased", "level", mean),
    ]
    if per_chain.shape[-1] > 1:
        spread = per_chain.std(-1, ddof=1) / np.where(mean != 0, abs(mean), np.nan)
        figures.append(("chains_disagree", "spread", spread))
    has_virial = METRICS in run.children and schema.VIRIAL in run.children[METRICS].variables
    if has_virial and expected_temperature(run):
        value, uncertainty = (each.values for each in mean_temperature(run, draws_after(run, burnin)))
        for code, certain in (("cold", value + 2 * uncertainty < 1), ("hot", value - 2 * uncertainty > 1)):
            figures.append((code, code, np.where(certain, value, np.nan)))
    return figures
