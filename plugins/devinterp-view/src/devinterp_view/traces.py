"""Losses and running coefficients along the chains, as curves of few points that keep every extreme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp.analyses.common.pictures import running_mean
from devinterp.analyses.common.run_data import burnin_steps, setting
from devinterp.analyses.llc import loss_traces
from devinterp.schema import CHAIN, RESTRICTION, STEP
from devinterp_view.budget import MAX_PANELS, MAX_POINTS, first
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: Chains of one restriction of which a panel has curves.
MAX_CHAINS = 16


@dataclass(frozen=True, slots=True)
class Curve:
    """One chain's values along its steps, thinned.

    Parameters
    ----------
    chain : str
        Label of the chain.
    step, value : numpy.ndarray
        Points, NaN left out.
    last : float
        The last of all values, NaN if the chain diverged.
    """

    chain: str
    step: np.ndarray
    value: np.ndarray
    last: float


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of all chains of one restriction.

    Parameters
    ----------
    restriction : str
        Its name.
    quantity : {"loss", "rise", "llc"}
        Minibatch losses; their rise over the same minibatches at w0; the coefficient of the steps so far.
    curves : list of Curve
        One for each chain.
    level : float
        Value of the dashed line: L(w0), or 0.
    burnin, num_steps : int
        Steps that are shaded, and all steps.
    is_paired : bool
        Whether the coefficient is the paired one.
    """

    restriction: str
    quantity: str
    curves: list[Curve]
    level: float
    burnin: int
    num_steps: int
    is_paired: bool


def panels(subject: Subject) -> tuple[list[list[Panel]], str]:
    """Return the panels of each restriction, and what was left out."""
    restrictions, left_out = first(subject.restrictions, MAX_PANELS, "restrictions")
    run = subject.under(restrictions)
    traces = loss_traces(run).compute()
    burnin, n_beta = burnin_steps(subject.run, None), float(setting(subject.run, "n_beta", needed_by="report"))
    num_chains = min(traces.sizes[CHAIN], MAX_CHAINS)
    num_points = int(np.clip(MAX_POINTS // (3 * num_chains * len(restrictions)), 40, 400))
    rows = [
        _of_restriction(traces.isel({RESTRICTION: n}), each, burnin, n_beta, num_points)
        for n, each in enumerate(restrictions)
    ]
    if traces.sizes[CHAIN] > MAX_CHAINS:
        left_out += f" Of {traces.sizes[CHAIN]:,} chains the first {MAX_CHAINS} are drawn."
    return rows, left_out.strip()


def _of_restriction(traces: xr.Dataset, restriction: str, burnin: int, n_beta: float, num_points: int) -> list[Panel]:
    traces = traces.transpose(CHAIN, STEP, ...)
    loss, level, is_paired = traces["loss"].to_numpy(), float(traces["w0_loss"]), "rise" in traces
    rise = traces["rise"].to_numpy() if is_paired else loss - level
    running = n_beta * running_mean(rise[:, burnin:])
    chains = [str(each) for each in traces[CHAIN].to_numpy()] if CHAIN in traces.coords else None
    common = {"restriction": name(restriction), "burnin": burnin, "num_steps": loss.shape[1], "is_paired": is_paired}
    shown = {"loss": (loss, 0, level), "rise": (rise, 0, 0.0), "llc": (running, burnin, 0.0)}
    if not is_paired:
        del shown["rise"]
    return [
        Panel(quantity=quantity, curves=_curves(values, start, chains, num_points), level=at, **common)
        for quantity, (values, start, at) in shown.items()
    ]


def _curves(values: np.ndarray, start: int, chains: Sequence[str] | None, num_points: int) -> list[Curve]:
    curves = []
    for number, of_chain in enumerate(values[:MAX_CHAINS]):
        step, value = thinned(of_chain, num_points)
        curves.append(Curve(str(number) if chains is None else name(chains[number]), step + start, value, of_chain[-1]))
    return curves


def thinned(values: np.ndarray, num_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most so many points of a curve: of each stretch its lowest and its highest, and the first and the last.

    Parameters
    ----------
    values : numpy.ndarray
        ``(step,)``; what is not finite is left out.
    num_points : int
        At least 4.
    """
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) <= num_points:
        return finite, values[finite]
    kept = {int(finite[0]), int(finite[-1])}
    for stretch in np.array_split(finite, (num_points - 2) // 2):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    steps = np.array(sorted(kept))
    return steps, values[steps]
