"""The setting that a calibration recommends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from devinterp.calibration.grid import Point


@dataclass(frozen=True)
class Recommendation(Point):
    """One setting: everything that `devinterp.sample` needs beside model, data and restrictions.

    Parameters
    ----------
    kernel : str
        Name of the kernel, ``sampling_method``.
    options : mapping
        Its options, ``sampling_method_kwargs``.
    lr, n_beta, localization : float
        Step size, inverse temperature and localization.
    batch_size, num_chains, num_burnin_steps, num_draws, num_steps_bw_draws : int
        As for `devinterp.sample`.
    predicted_error : float
        Standard error of the least certain coefficient, as a share of it, that this length should give.
    predicted_gradients : int
        Gradients of minibatches that the run takes, under all restrictions, for each checkpoint.
    slope, slope_se : float
        ``-d log llc / d log localization`` where it is largest, and its standard error; NaN of an
        earlier calibration, which did not measure it.
    match_sampling_input_ids_across_chains : bool
        As for `devinterp.sample`: False where minibatches that chains share would be much of the error.
    """

    num_chains: int
    num_burnin_steps: int
    num_draws: int
    num_steps_bw_draws: int
    predicted_error: float
    predicted_gradients: int
    slope: float = math.nan
    slope_se: float = math.nan
    match_sampling_input_ids_across_chains: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments of `devinterp.sample` that these are."""
        return {
            **super().settings,
            "num_chains": self.num_chains,
            "num_burnin_steps": self.num_burnin_steps,
            "num_draws": self.num_draws,
            "num_steps_bw_draws": self.num_steps_bw_draws,
            "match_sampling_input_ids_across_chains": self.match_sampling_input_ids_across_chains,
            "paired": True,
        }
