"""What a learning coefficient itself says of whether it can be used: its R-hat, its chains, its error, the temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.common.run_data import draws_after
from devinterp.analyses.common.virial import expected_temperature, mean_temperature
from devinterp.schema import CHAIN, METRICS
from devinterp.types import SEVERITIES


def verdict_attrs(result: xr.Dataset, run: xr.DataTree, burnin: int) -> dict[str, Any]:
    """Return the attributes ``verdict`` and ``findings`` of a result of `devinterp.analyses.llc.compute_llc`.

    Nothing is computed for a lazy result. The limits are those of ``tree.slt.diagnose()``, which looks at more.

    Parameters
    ----------
    result : xarray.Dataset
        The result, over restrictions.
    run : xarray.DataTree
        The run of finished chains.
    burnin : int
        Steps that were left out.
    """
    if any(variable.chunks is not None for variable in result.variables.values()):
        return {"verdict": "not judged, because it is lazy: call `tree.slt.diagnose()`"}
    found: dict[str, str] = {}
    for code, name, values in _figures(result, run, burnin):
        for value in np.atleast_1d(np.asarray(values, np.float64)).ravel():
            judged = LIMITS[name].judge(float(value))
            if judged is not None:
                found[code] = max(found.get(code, SEVERITIES[0]), judged[0], key=SEVERITIES.index)
    return {
        "verdict": max(found.values(), key=SEVERITIES.index, default=SEVERITIES[0]),
        "findings": sorted(found, key=lambda code: (-SEVERITIES.index(found[code]), code)),
    }


def _figures(result: xr.Dataset, run: xr.DataTree, burnin: int) -> list[tuple[str, str, Any]]:
    """Return figures of all restrictions with their code and the name of their limit."""
    prefix = "paired_" if "paired_llc_mean" in result else ""
    mean, error = result[f"{prefix}llc_mean"], result[f"{prefix}llc_se"]
    spread = result[f"{prefix}llc_per_chain"]
    size = abs(mean).where(mean != 0)
    figures: list[tuple[str, str, Any]] = [
        ("chains_disagree", "rhat", result[f"{prefix}rhat"]),
        ("too_little_signal", "signal", mean / error.where(error > 0)),
        ("loss_decreased", "level", mean),
    ]
    if spread.sizes[CHAIN] > 1:
        figures.append(("chains_disagree", "spread", spread.std(CHAIN, ddof=1) / size))
    if f"{METRICS}/{schema.VIRIAL}" in list(schema.variable_paths(run)) and expected_temperature(run):
        value, uncertainty = mean_temperature(run, draws_after(run, burnin))
        for code, certain in (("cold", value + 2 * uncertainty < 1), ("hot", value - 2 * uncertainty > 1)):
            figures.append((code, code, value.where(certain)))
    return figures
