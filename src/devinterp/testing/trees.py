"""Trees of a sampling run that no model made, for tests of analyses, stores and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.schema import RESTRICTION
from devinterp.testing.pretended_run import (
    PretendedData,
    broken_steps,
    descent,
    epochs_of_rows,
    metrics_group,
    replayed_rows,
    root_group,
    status_group,
    trace_group,
    walk,
)


def synthetic_tree(
    *,
    num_restrictions: int = 1,
    num_chains: int = 4,
    num_draws: int = 50,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    batch_size: int = 4,
    gradient_accumulation_steps: int = 1,
    num_rows: int = 32,
    shared_minibatches: bool = True,
    row_losses: bool = True,
    virial: bool = False,
    num_tokens: int = 9,
    observables: Mapping[str, tuple[int, int]] | None = None,
    n_beta: float = 20.0,
    scale: float = 0.1,
    autocorrelation: float = 0.5,
    drift: float = 0.0,
    ragged: bool = False,
    diverged: Iterable[tuple[int, int]] = (),
    seed: int = 0,
    chunks: Mapping[str, int] | str | None = None,
) -> xr.DataTree:
    r"""Return a complete sampling run whose weights are a stationary Gaussian process.

    Every chain moves six weights :math:`w`, an AR(1) process with standard deviation `scale` in each; under the restrictions
    after the first only some of them move. The loss of token :math:`x` is :math:`\ell_x(w) = \ell_x(0) + b_x \cdot w + 2 |w|^2`
    with fixed random :math:`b_x`, so that traces are correlated, learning coefficients are positive and exact values are known.

    Parameters
    ----------
    num_restrictions : int, default: 1
        Weight restrictions: ``"full"``, ``"part1"``, ...
    num_chains, num_draws : int
        Chains of each restriction and draws of each chain.
    num_burnin_steps : int, default: 0
        Steps before the first draw. Over them the loss comes down from one nat above its level.
    num_steps_bw_draws : int, default: 1
        Steps from one draw to the next.
    batch_size, num_tokens : int
        Shape of a minibatch; losses have one position less than there are tokens.
    gradient_accumulation_steps : int, default: 1
        Minibatches of each step.
    num_rows : int, default: 32
        Rows of the dataset, at least `batch_size`. Every epoch uses all whole minibatches in the same order; the first half of
        an epoch serves for L(w0).
    shared_minibatches : bool, default: True
        Whether all chains see the same minibatches.
    row_losses : bool, default: True
        Store the loss at w0 of every row, for the paired learning coefficient.
    virial : bool, default: False
        Record the virial at draws, as of weights that are in equilibrium with a potential of which they are the law.
    observables : dict of str to (int, int), optional
        Number of sequences and of tokens of each observable. Default: ``{"train": (8, 9), "code": (6, 9)}``; ``{}`` for none.
    n_beta : float, default: 20.0
        Inverse temperature times sample size, as recorded in the settings.
    scale : float, default: 0.1
        Standard deviation of each weight; 0 for weights that do not move.
    autocorrelation : float, default: 0.5
        Coefficient of the AR(1) process, from -1 to 1 exclusive.
    drift : float, default: 0.0
        Standard deviation, over weights and chains, of how far a weight moves linearly from the first step to the last.
    ragged : bool, default: False
        Give the sequences different lengths: positions past the end are NaN in every draw.
    diverged : iterable of (int, int), optional
        The ``(restriction, chain)`` that broke halfway.
    seed : int, default: 0
        Of all random numbers.
    chunks : mapping of str to int, or str, optional
        Make the tree lazy with these Dask chunks; default: numpy arrays.

    Returns
    -------
    xarray.DataTree
        A run, without metrics of steps.
    """
    counts = {"num_restrictions": num_restrictions, "num_chains": num_chains, "num_draws": num_draws}
    if min(counts.values()) < 1 or num_rows < batch_size:
        raise InvalidInputError(
            f"counts must be positive and `num_rows` (={num_rows}) at least `batch_size` (={batch_size}); got {counts}."
        )
    observables = {"train": (8, 9), "code": (6, 9)} if observables is None else observables
    rng = np.random.default_rng(seed)
    num_steps = num_burnin_steps + num_draws * num_steps_bw_draws
    draw_step = num_burnin_steps + num_steps_bw_draws * np.arange(num_draws)
    weights = walk(rng, (num_restrictions, num_chains, num_steps), scale, autocorrelation, drift)
    broken = broken_steps((num_restrictions, num_chains, num_steps), diverged)
    stop = np.where(broken, np.nan, descent(num_steps, num_burnin_steps))
    pool = PretendedData(rng, num_rows, num_tokens, ragged)
    epochs = epochs_of_rows(rng, num_rows, batch_size, num_chains, shared_minibatches)
    num_initial = -(-epochs.shape[1] // (2 * gradient_accumulation_steps))
    groups: dict[str, xr.Dataset] = {
        "/": root_group(num_restrictions, num_chains, num_draws, draw_step),
        f"/{schema.TRACE}": trace_group(
            pool,
            replayed_rows(epochs, num_steps, gradient_accumulation_steps),
            weights,
            stop,
            replayed_rows(epochs, num_initial, gradient_accumulation_steps).reshape(num_chains, -1, batch_size),
        ),
    }
    for name, (num_sequences, tokens) in observables.items():
        data = PretendedData(rng, num_sequences, tokens, ragged)
        groups[f"/{schema.OBSERVABLES}/{name}"] = data.observable(weights[:, :, draw_step], stop[:, :, draw_step])
    if row_losses:
        groups[f"/{schema.TRACE}"] = groups[f"/{schema.TRACE}"].assign(pool.row_losses())
    if virial:
        groups[f"/{schema.METRICS}"] = metrics_group(weights[:, :, draw_step], scale)
    groups[f"/{schema.STATUS}"] = status_group(broken)
    settings = {
        "lr": 1e-3,
        "n_beta": n_beta,
        "localization": 10.0,
        "num_chains": num_chains,
        "num_draws": num_draws,
        "num_burnin_steps": num_burnin_steps,
        "num_steps_bw_draws": num_steps_bw_draws,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "num_init_loss_batches": num_initial,
        "match_sampling_input_ids_across_chains": shared_minibatches,
        "weight_restrictions": [str(name) for name in groups["/"][RESTRICTION].to_numpy()],
        "observables": {name: num_sequences for name, (num_sequences, _) in observables.items()},
    }
    groups["/"].attrs = {
        "schema_version": schema.SCHEMA_VERSION,
        "config": json.dumps(settings),
        "provenance": json.dumps({"synthetic_tree": {"seed": seed}}),
    }
    return xr.DataTree.from_dict(groups if chunks is None else _chunked(groups, chunks))


def _chunked(groups: Mapping[str, xr.Dataset], chunks: Mapping[str, int] | str) -> dict[str, xr.Dataset]:
    """Return groups with Dask chunks, but for the states: strings in Dask arrays could not be written to a store."""

    def sizes(group: xr.Dataset) -> Any:
        return chunks if isinstance(chunks, str) else {d: size for d, size in chunks.items() if d in group.dims}

    return {p: group if p.endswith(schema.STATUS) else group.chunk(sizes(group)) for p, group in groups.items()}
