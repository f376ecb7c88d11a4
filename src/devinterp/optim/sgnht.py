"""A Nosé-Hoover thermostat as a torch optimizer, with the arguments that DevInterp 1 gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from devinterp.optim.preconditioner import NHTPreconditioning
from devinterp.optim.sgmcmc import SGMCMC


class SGNHT(SGMCMC):
    """Steps of the kernel ``"sgnht"``, which holds the temperature right; DevInterp's form does so for tiny steps only.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them.
    lr : float, default: 0.01
        Step size of the kernel.
    diffusion_factor : float, default: 0.01
        Friction at the start, the kernel's ``diffusion``.
    bounding_box_size, nbeta : float, optional
        As in `SGMCMC`.
    save_noise, save_mala_vars : bool, default: False
        Either sets `save_metrics`.
    metrics : list of str, optional
        As in `SGMCMC`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        diffusion_factor: float = 0.01,
        bounding_box_size: float | None = None,
        save_noise: bool = False,
        save_mala_vars: bool = False,
        nbeta: float = 1.0,
        metrics: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            nbeta=nbeta,
            preconditioner=NHTPreconditioning(diffusion_factor),
            bounding_box_size=bounding_box_size,
            metrics=metrics,
            save_metrics=save_noise or save_mala_vars,
        )
