"""Langevin dynamics as a torch optimizer, with the arguments that DevInterp 2 and 1 give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from devinterp.optim.sgmcmc import SGMCMC


class SGLD(SGMCMC):
    r"""Samples :math:`e^{-U(w)}`, :math:`U = n\beta L + \tfrac{\gamma}{2} |w - w_0|^2 + \tfrac{\lambda}{2} |w|^2`.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them.
    lr, noise_level, weight_decay, localization, nbeta, bounding_box_size : float, optional
        As in `SGMCMC`.
    save_noise, save_mala_vars, noise_norm, grad_norm, weight_norm, distance : bool, default: False
        DevInterp 1's; any of them sets `save_metrics`.
    optimize_over, mask : Tensor, optional
        Which elements are sampled.
    temperature : float, optional
        DevInterp 1's older name of `nbeta`.
    metrics, save_metrics, sketch_dim, sketch_seed : object, optional
        As in `SGMCMC`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        noise_level: float = 1.0,
        weight_decay: float = 0.0,
        localization: float = 0.0,
        nbeta: float | Callable[[], float] = 1.0,
        bounding_box_size: float | None = None,
        save_noise: bool = False,
        save_mala_vars: bool = False,
        optimize_over: Any = None,
        noise_norm: bool = False,
        grad_norm: bool = False,
        weight_norm: bool = False,
        distance: bool = False,
        temperature: float | None = None,
        metrics: Sequence[str] | None = None,
        *,
        mask: Any = None,
        save_metrics: bool = False,
        sketch_dim: int | None = None,
        sketch_seed: int = 0,
    ) -> None:
        measured = any((save_noise, save_mala_vars, noise_norm, grad_norm, weight_norm, distance, save_metrics))
        super().__init__(
            params,
            lr,
            noise_level,
            nbeta if temperature is None else temperature,
            localization=localization,
            weight_decay=weight_decay,
            bounding_box_size=bounding_box_size,
            optimize_over=optimize_over,
            metrics=metrics,
            mask=mask,
            save_metrics=measured,
            sketch_dim=sketch_dim,
            sketch_seed=sketch_seed,
        )
