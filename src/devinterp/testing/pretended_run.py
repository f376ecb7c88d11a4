"""The parts of a sampling run that no model made: data with known losses, weights that walk at random, groups of a tree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, ROW, SEQUENCE, STEP, TOKEN
from devinterp.selection import NUM_LOSSES

#: Number of weights of the pretended model, and of its vocabulary.
_NUM_WEIGHTS, _VOCABULARY = 6, 50
_CURVATURE = 4.0


def broken_steps(shape: tuple[int, int, int], diverged: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return which steps ``(restriction, chain, step)`` are not finite: from halfway of the chains that are named."""
    broken = np.zeros(shape, bool)
    for restriction, chain in diverged:
        broken[restriction, chain, shape[2] // 2 :] = True
    return broken


def descent(num_steps: int, num_burnin_steps: int) -> np.ndarray:
    """Return how far above its level the loss is at each step: one nat at first, nothing after burn-in."""
    extra = np.zeros(num_steps)
    extra[:num_burnin_steps] = np.linspace(1, 0, num_burnin_steps, endpoint=False)
    return extra


def epochs_of_rows(
    rng: np.random.Generator, num_rows: int, batch_size: int, num_chains: int, shared: bool
) -> np.ndarray:
    """Return the rows of each minibatch of an epoch, ``(chain, minibatch, batch)``."""
    num_streams, per_epoch = 1 if shared else num_chains, num_rows // batch_size
    epochs = np.stack([rng.permutation(num_rows)[: per_epoch * batch_size] for _ in range(num_streams)])
    return np.broadcast_to(epochs.reshape(num_streams, per_epoch, batch_size), (num_chains, per_epoch, batch_size))


class PretendedData:
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
        """Return the group of an observable with these sequences, at the weights of draws."""
        num_sequences, num_tokens = self.tokens.shape
        return xr.Dataset(
            {
                "loss": ((RESTRICTION, CHAIN, DRAW, SEQUENCE, POSITION), self.loss(weights, stop)),
                "init_loss": ((SEQUENCE, POSITION), self.start.astype(np.float32), {NUM_LOSSES: num_tokens - 1}),
                "token_ids": ((SEQUENCE, TOKEN), self.tokens),
            },
            coords={"sequence_id": (SEQUENCE, np.arange(num_sequences)), POSITION: np.arange(1, num_tokens)},
        )


def walk(
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
    walk *= moving_weights(shape[0])[:, None, None, :]
    return walk


def moving_weights(num_restrictions: int) -> np.ndarray:
    """Return which weights move, ``(restriction, weight)``: all, then about half of them at a time."""
    moving = np.ones((num_restrictions, _NUM_WEIGHTS), bool)
    for restriction in range(1, num_restrictions):
        moving[restriction] = (np.arange(_NUM_WEIGHTS) + restriction) % 6 < 3
    return moving


def root_group(num_restrictions: int, num_chains: int, num_draws: int, draw_step: np.ndarray) -> xr.Dataset:
    """Return the labels of a run."""
    names = ["full", *(f"part{n}" for n in range(1, num_restrictions))]
    return xr.Dataset(
        coords={
            RESTRICTION: np.array(names, dtype=object),
            CHAIN: np.arange(num_chains),
            DRAW: np.arange(num_draws),
            "draw_step": (DRAW, draw_step),
            "num_moving": (RESTRICTION, moving_weights(num_restrictions).sum(1)),
        }
    )


def replayed_rows(epochs: np.ndarray, num_steps: int, minibatches: int) -> np.ndarray:
    """Return the rows ``(chain, step, batch)`` of steps that replay epochs ``(chain, minibatch, row)``."""
    order = np.arange(num_steps * minibatches) % epochs.shape[1]
    return np.asarray(epochs[:, order].reshape(len(epochs), num_steps, -1))


def trace_group(
    pool: PretendedData, rows: np.ndarray, weights: np.ndarray, stop: np.ndarray, initial: np.ndarray
) -> xr.Dataset:
    """Return the losses of the minibatches `rows` ``(chain, step, batch)``, and L(w0) from those of `initial`."""
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


def _initial_loss(pool: PretendedData, batches: np.ndarray) -> dict[str, Any]:
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


def metrics_group(weights: np.ndarray, scale: float) -> xr.Dataset:
    """Return the metrics of draws of weights ``(restriction, chain, draw, weight)``, which make two parameter tensors."""
    dims, names = (RESTRICTION, CHAIN, DRAW), ("first", "second")
    squares = weights**2
    parts = squares.reshape(*squares.shape[:3], len(names), -1).sum(-1) / max(scale, 1e-30) ** 2
    sizes = moving_weights(len(weights)).reshape(len(weights), len(names), -1).sum(-1)
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


def status_group(broken: np.ndarray) -> xr.Dataset:
    """Return the states of chains that break where `broken` ``(restriction, chain, step)`` is true."""
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
