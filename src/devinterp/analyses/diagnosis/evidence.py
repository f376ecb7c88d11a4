"""What checks of a run share: the run, its settings, series of losses, and results of other analyses, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.kernel_laws import reach_of
from devinterp.analyses.common.limits import Limit
from devinterp.analyses.common.mean_losses import share_minibatches
from devinterp.analyses.common.run_data import restriction_names
from devinterp.analyses.diagnosis.series import Series, read_series
from devinterp.analyses.llc.draw_rise import DrawRise
from devinterp.analyses.sensitivity import SENSITIVITY_REQUIRES, sensitivity
from devinterp.analyses.temperature import TEMPERATURE_REQUIRES, temperature
from devinterp.errors import MissingDataError
from devinterp.runs import settings
from devinterp.schema import CHAIN, RESTRICTION, check
from devinterp.types import Finding


class Evidence:
    """What a check is given.

    Parameters
    ----------
    whole : xarray.DataTree
        The run with all its chains.
    run : xarray.DataTree
        The run with the chains that finished.
    burnin : int
        Number of initial steps that are left out.

    Attributes
    ----------
    whole, run, burnin
        As given.
    settings : dict
        The arguments the run was sampled with.
    n_beta, localization : float
        Two of these.
    """

    def __init__(self, whole: xr.DataTree, run: xr.DataTree, burnin: int) -> None:
        self.whole, self.run, self.burnin = whole, run, burnin
        self.settings: dict[str, Any] = settings(run)
        self.n_beta = float(self.settings.get("n_beta", np.nan))
        self.localization = float(self.settings.get("localization") or 0.0)

    @cached_property
    def series(self) -> list[Series]:
        """Return the series of the run and of its observables, loaded; the run's is the first."""
        return read_series(self.run, self.burnin)

    @cached_property
    def at_draws(self) -> DrawRise | None:
        """Return the rise of the loss at the steps of draws, loaded; None if the losses of rows at w0 are not stored."""
        steps = self.run["draw_step"].to_numpy()
        at_draws = DrawRise.of(self.run, steps[steps >= self.burnin])
        if at_draws is None:
            return None
        loaded = xr.Dataset({"rise": at_draws.rise, "noise": at_draws.noise}).compute()
        return replace(at_draws, rise=loaded["rise"], noise=loaded["noise"])

    @cached_property
    def temperature(self) -> xr.Dataset:
        """Return the temperature, loaded; raises `MissingDataError` where it is not recorded."""
        check(self.run, TEMPERATURE_REQUIRES, needed_by="temperature")
        return self._with_restriction(temperature(self.run, burnin=self.burnin))

    @cached_property
    def sensitivity(self) -> xr.Dataset:
        """Return the slopes of the coefficient, loaded; raises `MissingDataError` where they are not recorded."""
        check(self.run, SENSITIVITY_REQUIRES, needed_by="sensitivity")
        return self._with_restriction(sensitivity(self.run, burnin=self.burnin))

    @property
    def names(self) -> list[str]:
        """Return the names of the restrictions."""
        return restriction_names(self.run)

    @property
    def num_chains(self) -> int:
        """Return the number of chains that finished."""
        return int(self.run.sizes[CHAIN])

    @property
    def is_shared(self) -> bool:
        """Return whether all chains see the same minibatches."""
        return share_minibatches(self.run)

    @property
    def step_of_sgld(self) -> float:
        r"""Return :math:`\epsilon` of a kernel whose steps are SGLD's.

        Raises
        ------
        MissingDataError
            For another kernel.
        """
        if self.settings.get("sampling_method", "sgld") not in ("sgld", "sgmcmc_sgld") or "lr" not in self.settings:
            raise MissingDataError("it is known for the kernel 'sgld' only")
        return float(self.settings["lr"])

    @property
    def noise_factor(self) -> float:
        r"""Return by how much more than SGLD of the same step size the kernel is heated by the noise of minibatches.

        Raises
        ------
        MissingDataError
            For a kernel of which it is not known, or one that subtracts that noise.
        """
        if "lr" not in self.settings:
            raise MissingDataError("the step size is not known")
        name, options = self.settings.get("sampling_method", "sgld"), self.settings.get("sampling_method_kwargs") or {}
        return reach_of(str(name), options)

    def flag(
        self,
        values: xr.DataArray,
        limit: Limit,
        code: str,
        message: str,
        advice: str,
        *,
        observable: str = "",
        unless: Callable[[int], bool] = lambda number: False,
    ) -> Iterator[Finding]:
        """Yield a finding for every value ``(restriction)`` or ``(restriction, chain)`` that is beyond a limit.

        Parameters
        ----------
        values : xarray.DataArray
            The figures.
        limit : Limit
            Their limits.
        code, advice : str
            Of the findings.
        message : str
            With ``{value}`` and ``{limit}``.
        observable : str, optional
            Name of the observable they are of.
        unless : callable, optional
            Given the number of a restriction, whether to pass it over.
        """
        numbers = np.asarray(values.to_numpy(), np.float64)
        chains = self.run[CHAIN].to_numpy() if CHAIN in values.dims else None
        for index in np.ndindex(numbers.shape):
            judged = limit.judge(float(numbers[index]))
            if judged is None or unless(index[0]):
                continue
            severity, beyond = judged
            yield Finding(
                code=code,
                severity=severity,
                message=message.format(value=_text(float(numbers[index])), limit=_text(beyond)),
                advice=advice,
                value=float(numbers[index]),
                limit=beyond,
                restriction=self.names[index[0]],
                observable=observable,
                chain=-1 if chains is None else int(chains[index[1]]),
            )

    def _with_restriction(self, result: xr.Dataset) -> xr.Dataset:
        loaded = result.compute()
        return loaded if RESTRICTION in loaded.dims else loaded.expand_dims(RESTRICTION)


def _text(value: float) -> str:
    return f"{value:.3g}"
