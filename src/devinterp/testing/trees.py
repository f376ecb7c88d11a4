"""Trees of a sampling run that no model made, for tests of analyses, stores and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, ROW, SEQUENCE, STEP, TOKEN
from devinterp.selection import NUM_LOSSES

#: Number of weights of the pretended model, and of its vocabulary.
_NUM_WEIGHTS, _VOCABULARY = 6, 50
_CURVATURE = 4.0


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
    weights = _walk(rng, (num_restrictions, num_chains, num_steps), scale, autocorrelation, drift)
    extra = np.zeros(num_steps)
    extra[:num_burnin_steps] = np.linspace(1, 0, num_burnin_steps, endpoint=False)
    broken = np.zeros(weights.shape[:3], bool)
    for restriction, chain in diverged:
        broken[restriction, chain, num_steps // 2 :] = True
    stop = np.where(broken, np.nan, extra)

    pool = _Dataset(rng, num_rows, num_tokens, ragged)
    num_streams, per_epoch = 1 if shared_minibatches else num_chains, num_rows // batch_size
    epochs = np.stack([rng.permutation(num_rows)[: per_epoch * batch_size] for _ in range(num_streams)])
    epochs = np.broadcast_to(epochs.reshape(num_streams, per_epoch, batch_size), (num_chains, per_epoch, batch_size))
    num_initial = -(-per_epoch // (2 * gradient_accumulation_steps))
    groups: dict[str, xr.Dataset] = {
        "/": _root(num_restrictions, num_chains, num_draws, draw_step),
        f"/{schema.TRACE}": _trace(
            pool,
            _steps(epochs, num_steps, gradient_accumulation_steps),
            weights,
            stop,
            _steps(epochs, num_initial, gradient_accumulation_steps).reshape(num_chains, -1, batch_size),
        ),
    }
    for name, (num_sequences, tokens) in observables.items():
        data = _Dataset(rng, num_sequences, tokens, ragged)
        groups[f"/{schema.OBSERVABLES}/{name}"] = data.observable(weights[:, :, draw_step], stop[:, :, draw_step])
    if row_losses:
        groups[f"/{schema.TRACE}"] = groups[f"/{schema.TRACE}"].assign(pool.row_losses())
    if virial:
        groups[f"/{schema.METRICS}"] = _metrics(weights[:, :, draw_step], scale)
    groups[f"/{schema.STATUS}"] = _status(broken)
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
    if chunks is not None:
        # The states stay as they are: strings in Dask arrays could not be written to a store.
        groups = {
            path: group if path.endswith(schema.STATUS) else group.chunk(_present(chunks, group))
            for path, group in groups.items()
        }
    return xr.DataTree.from_dict(groups)


def _present(chunks: Mapping[str, int] | str, group: xr.Dataset) -> Any:
    return chunks if isinstance(chunks, str) else {dim: size for dim, size in chunks.items() if dim in group.dims}


class _Dataset:
    """Random sequences with the coefficients of their losses."""

    def __init__(self, rng: np.random.Generator, num_sequences: int, num_tokens: int, ragged: bool) -> None:
        shape = (num_sequences, num_tokens - 1)
        self.tokens = rng.integers(_VOCABULARY, size=(num_sequences, num_tokens))
        self.start = rng.uniform(1, 4, shape)
        self.slope = rng.normal(size=(*shape, _NUM_WEIGHTS))
        if ragged:
            lengths = rng.integers(1, num_tokens, size=num_sequences)
            lengths[0] = num_tokens - 1
            self.start[np.arange(num_tokens - 1) >= lengths[:, None]] = np.nan

    def loss(self, weights: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return the losses ``(..., sequence, position)`` at weights ``(..., weight)``."""
        common = _CURVATURE / 2 * (weights**2).sum(-1) + stop
        losses: np.ndarray = self.start + np.einsum("...k,spk->...sp", weights, self.slope) + common[..., None, None]
        return losses.astype(np.float32)

    def row_losses(self) -> dict[str, Any]:
        """Return the variables that hold the loss at w0 of every row."""
        num_rows = len(self.start)
        return {
            "row_id": ((ROW,), np.arange(num_rows), {"num_rows": num_rows}),
            "row_loss": ((ROW, POSITION), self.start.astype(np.float32)),
        }

    def observable(self, weights: np.ndarray, stop: np.ndarray) -> xr.Dataset:
        num_sequences, num_tokens = self.tokens.shape
        return xr.Dataset(
            {
                "loss": ((RESTRICTION, CHAIN, DRAW, SEQUENCE, POSITION), self.loss(weights, stop)),
                "init_loss": ((SEQUENCE, POSITION), self.start.astype(np.float32), {NUM_LOSSES: num_tokens - 1}),
                "token_ids": ((SEQUENCE, TOKEN), self.tokens),
            },
            coords={"sequence_id": (SEQUENCE, np.arange(num_sequences)), POSITION: np.arange(1, num_tokens)},
        )


def _walk(
    rng: np.random.Generator, shape: tuple[int, int, int], scale: float, coefficient: float, drift: float
) -> np.ndarray:
    """Return weights ``(restriction, chain, step, weight)``; later restrictions move a part of them."""
    noise = rng.normal(size=(*shape, _NUM_WEIGHTS))
    walk = np.empty_like(noise)
    walk[:, :, 0] = noise[:, :, 0]
    for step in range(1, shape[2]):
        walk[:, :, step] = coefficient * walk[:, :, step - 1] + np.sqrt(1 - coefficient**2) * noise[:, :, step]
    walk *= scale
    trend = drift * rng.normal(size=(shape[0], shape[1], 1, _NUM_WEIGHTS))
    walk += trend * np.linspace(-0.5, 0.5, shape[2])[:, None]
    walk *= _moving(shape[0])[:, None, None, :]
    return walk


def _moving(num_restrictions: int) -> np.ndarray:
    """Return which weights move, ``(restriction, weight)``: all, then about half of them at a time."""
    moving = np.ones((num_restrictions, _NUM_WEIGHTS), bool)
    for restriction in range(1, num_restrictions):
        moving[restriction] = (np.arange(_NUM_WEIGHTS) + restriction) % 6 < 3
    return moving


def _root(num_restrictions: int, num_chains: int, num_draws: int, draw_step: np.ndarray) -> xr.Dataset:
    names = ["full", *(f"part{n}" for n in range(1, num_restrictions))]
    return xr.Dataset(
        coords={
            RESTRICTION: np.array(names, dtype=object),
            CHAIN: np.arange(num_chains),
            DRAW: np.arange(num_draws),
            "draw_step": (DRAW, draw_step),
            "num_moving": (RESTRICTION, _moving(num_restrictions).sum(1)),
        }
    )


def _steps(epochs: np.ndarray, num_steps: int, minibatches: int) -> np.ndarray:
    """Return the rows ``(chain, step, batch)`` of steps that replay epochs ``(chain, minibatch, row)``."""
    order = np.arange(num_steps * minibatches) % epochs.shape[1]
    return np.asarray(epochs[:, order].reshape(len(epochs), num_steps, -1))


def _trace(pool: _Dataset, rows: np.ndarray, weights: np.ndarray, stop: np.ndarray, initial: np.ndarray) -> xr.Dataset:
    losses = np.empty((*weights.shape[:3], rows.shape[2], pool.start.shape[1]), np.float32)
    common = _CURVATURE / 2 * (weights**2).sum(-1) + stop
    for slot in range(rows.shape[2]):
        chosen = rows[:, :, slot]
        linear = np.einsum("rcik,cipk->rcip", weights, pool.slope[chosen])
        losses[:, :, :, slot] = pool.start[chosen] + linear + common[..., None]
    return xr.Dataset(
        {
            "loss": ((RESTRICTION, CHAIN, STEP, BATCH, POSITION), losses),
            "sequence_id": ((CHAIN, STEP, BATCH), rows),
            **_initial_loss(pool, initial),
        },
        coords={STEP: np.arange(rows.shape[1]), POSITION: np.arange(1, pool.start.shape[1] + 1)},
    )


def _initial_loss(pool: _Dataset, batches: np.ndarray) -> dict[str, Any]:
    """Return L(w0) on some rows ``(chain, minibatch, row)``, and how uncertain that makes it."""
    start = pool.start[batches]
    flat = start.reshape(len(start), -1, start.shape[-1])
    unmasked = ~np.isnan(flat)
    count = unmasked.sum(1)
    total, squares = (np.where(unmasked, power, 0).sum(1) for power in (flat, flat**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        variance = (squares / count - mean**2) / count
    means = np.nansum(start, axis=(2, 3)) / (~np.isnan(start)).sum((2, 3))  # of minibatches
    row_total, row_count = np.nansum(pool.start, axis=1), (~np.isnan(pool.start)).sum(1)
    residuals = (row_total - row_count * row_total.sum() / row_count.sum()) / row_count.mean()
    weights = np.bincount(batches[0].ravel(), minlength=len(residuals)) / batches[0].size
    mean_se = np.sqrt(residuals.var(ddof=1) * max((weights**2).sum() - 1 / len(residuals), 0))
    return {
        "init_loss": ((CHAIN, POSITION), mean.astype(np.float32), {NUM_LOSSES: mean.shape[1]}),
        "init_loss_se": ((CHAIN, POSITION), np.sqrt(np.maximum(variance, 0)).astype(np.float32)),
        "init_loss_mean": ((CHAIN,), means.mean(1)),
        "init_loss_mean_se": ((CHAIN,), np.full(len(start), mean_se, np.float32)),
    }


def _metrics(weights: np.ndarray, scale: float) -> xr.Dataset:
    """Return the metrics of draws of weights ``(restriction, chain, draw, weight)``, which make two parameter tensors."""
    dims, names = (RESTRICTION, CHAIN, DRAW), ("first", "second")
    squares = weights**2
    parts = squares.reshape(*squares.shape[:3], len(names), -1).sum(-1) / max(scale, 1e-30) ** 2
    sizes = _moving(len(weights)).reshape(len(weights), len(names), -1).sum(-1)
    parts = np.where(sizes[:, None, None] > 0, parts, np.nan)
    return xr.Dataset(
        {
            schema.VIRIAL: (dims, np.nansum(parts, -1).astype(np.float32)),
            schema.VIRIAL_GRADIENT: (dims, (_CURVATURE * squares.sum(-1)).astype(np.float32)),
            schema.VIRIAL_SQUARE: (dims, squares.sum(-1).astype(np.float32)),
            schema.DRAW_SQUARE: (dims, squares.sum(-1).astype(np.float32)),
            schema.PARAMETER_VIRIAL: ((*dims, schema.PARAMETER), parts.astype(np.float32)),
            schema.PARAMETER_SIZE: ((RESTRICTION, schema.PARAMETER), sizes),
        },
        coords={schema.PARAMETER: np.array(names, dtype=object)},
    )


def _status(broken: np.ndarray) -> xr.Dataset:
    failed = broken.any(2)
    steps = np.where(failed, broken.argmax(2), broken.shape[2])
    errors = np.full(failed.shape, "", dtype=object)
    for index in zip(*np.nonzero(failed), strict=True):
        errors[index] = f"loss became nan at step {steps[index]}"
    dims = (RESTRICTION, CHAIN)
    return xr.Dataset(
        {
            "steps_done": (dims, steps),
            "state": (dims, np.where(failed, schema.DIVERGED, schema.FINISHED).astype(object)),
            "error": (dims, errors),
        }
    )
