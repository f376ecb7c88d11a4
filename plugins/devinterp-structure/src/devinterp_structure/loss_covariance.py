r"""How expectations of mean losses depend on the weight of each training sample, by covariances over the posterior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from devinterp.analyses.common.mean_losses import MOMENT, sums
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    choose_observable,
    drop_draws,
    noise_attrs,
    restriction_names,
    setting,
    unlabelled_losses,
    use_chains,
)
from devinterp.errors import InvalidInputError
from devinterp.runs import only
from devinterp.schema import CHAIN, DRAW, RESTRICTION, SEQUENCE, TRACE

#: The row of the data set that a sequence of an observable is.
SEQUENCE_ID = "sequence_id"

TARGET, CANDIDATE = "target", "candidate"
#: What a run must hold.
REQUIRES = ("observables/*/loss", *STATUS_REQUIRED)


def derivatives(
    tree: xr.DataTree,
    targets: Sequence[str],
    candidates: str,
    *,
    restriction: str | None,
    burnin: int | None,
    chains: Chains,
    needed_by: str,
) -> xr.DataArray:
    """Return the derivative of each target's expected mean loss by each candidate's weight, ``(chain, target, candidate)``.

    Candidates stand in the order of the data set, whose rows their labels are; an observable has its own, random order.
    Traces are centred by the mean of their chain, so that differences between chains that did not mix count for nothing.
    """
    run = only(tree, name=needed_by, requires=REQUIRES)
    targets = [choose_observable(run, name, argument="change", needed_by=needed_by) for name in targets]
    candidates = choose_observable(run, candidates, argument="candidates", needed_by=needed_by)
    run, _ = use_chains(run, chains, needed_by=needed_by)
    run = drop_draws(run, burnin_steps(run, burnin))
    run = _one_restriction(run, restriction, needed_by)
    if run.sizes[DRAW] < 2:
        raise InvalidInputError(f"`{needed_by}` needs two draws or more of each chain; there is {run.sizes[DRAW]}.")
    whole = {name: _sums(run, name) for name in {*targets, candidates}}
    samples, counts = whole[candidates]
    shares = counts / counts.sum(-1, keepdims=True)
    losses = _centred(samples / np.where(counts > 0, counts, 1))
    wanted = np.stack([_centred(whole[name][0].sum(-1) / whole[name][1].sum(-1)) for name in targets], axis=1)
    # cov(phi, l) of each chain, divided by one less than its draws because its own mean was subtracted.
    covariance = np.einsum("ctd,cdj->ctj", wanted, losses) / (run.sizes[DRAW] - 1)
    # A noise level other than 1 samples at its square as the temperature.
    temperature = noise_attrs(run).get("noise_level", 1.0) ** 2
    scale = float(setting(run, "n_beta", needed_by=needed_by)) / temperature
    slopes = xr.DataArray(
        -scale * shares[:, :1] * covariance,
        dims=(CHAIN, TARGET, CANDIDATE),
        coords={
            CHAIN: run[CHAIN].to_numpy(),
            TARGET: list(targets),
            CANDIDATE: _rows_of_data(run, candidates, needed_by),
        },
        attrs={"units": "nat"},
    )
    return slopes.sortby(CANDIDATE)


def _one_restriction(run: xr.DataTree, restriction: str | None, needed_by: str) -> xr.DataTree:
    names = restriction_names(run)
    if restriction is None and len(names) == 1:
        restriction = names[0]
    if restriction not in names:
        raise InvalidInputError(
            f"`{needed_by}`: `restriction` (={restriction!r}) must be one of the run's restrictions, {names}."
        )
    return run.isel({RESTRICTION: names.index(restriction)}, missing_dims="ignore")


def _rows_of_data(run: xr.DataTree, name: str, needed_by: str) -> np.ndarray:
    """Return the row of the data set that each sequence of an observable is.

    Raises
    ------
    InvalidInputError
        If the run was sampled on rows that the observable does not hold: the share of a sample in the loss would be too large.
    """
    node = run[f"observables/{name}"]
    rows = node.coords[SEQUENCE_ID].to_numpy() if SEQUENCE_ID in node.coords else np.arange(node.sizes[SEQUENCE])
    trace = run[TRACE].variables if TRACE in run.children else {}
    sampled = trace[SEQUENCE_ID].to_numpy() if SEQUENCE_ID in trace else rows
    num_rows = max(rows.max(), sampled.max()) + 1
    if len(set(rows.tolist())) < num_rows:
        raise InvalidInputError(
            f"`{needed_by}`: `candidates` (={name!r}) must hold all the data that the run was sampled on; it holds "
            f"{len(set(rows.tolist()))} of at least {num_rows} rows: sample with an observable of the whole data set, "
            "batch_size x batches_per_draw rows."
        )
    return np.asarray(rows)


def _sums(run: xr.DataTree, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of each sequence's losses and how many there are, ``(chain, draw, sequence)`` each."""
    totals = sums(unlabelled_losses(run, f"observables/{name}")).transpose(CHAIN, DRAW, SEQUENCE, MOMENT).to_numpy()
    return totals[..., 0], totals[..., 1]


def _centred(series: np.ndarray) -> np.ndarray:
    """Subtract from each chain's series the mean over its draws (the second axis)."""
    return np.asarray(series - series.mean(1, keepdims=True))
