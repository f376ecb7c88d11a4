r"""How often stated 95 % intervals hold the truth, on runs whose truth is known.

Weights are stationary Gaussian, an AR(1) process :math:`w \sim N(0, \sigma^2)` in each coordinate and chain. Row i has
the loss :math:`\ell_i(w) = \ell_i + b_i \cdot w + \tfrac12 h_i |w|^2`: rows differ in level, slope and curvature, and
those of high loss are steeper. Rows are used as `sample` uses them: once an epoch, each epoch replaying the first. The truth is
:math:`n\beta\,\mathrm{E}[L(w) - L(w_0)]` with L the mean over the minibatches of an epoch.

``python -m support.coverage`` (with ``tests`` on the path) prints the table of docs/errors.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_error import contrasts, half_width, mean_variance
from devinterp.analyses.llc.schedule import shares_of_rows
from devinterp.schema import BATCH, CHAIN, DRAW, RESTRICTION, ROW, STEP

N_BETA, SIGMA, NUM_WEIGHTS, NUM_BURNIN, NUM_INITIAL = 20.0, 0.1, 6, 10, 32


@dataclass(frozen=True)
class Cell:
    """One kind of run."""

    num_chains: int
    shared: bool
    batch_size: int
    num_draws: int
    epochs: float
    padded: bool
    autocorrelation: float = 0.5


def cells(
    *,
    chains: Iterable[int] = (1, 4, 16),
    batch_sizes: Iterable[int] = (4, 32),
    draws: Iterable[int] = (20, 100, 500),
    epochs: Iterable[float] = (0.2, 1, 20),
    autocorrelations: Iterable[float] = (0.5,),
) -> Iterator[Cell]:
    """Yield the cells of a grid: shared and own minibatches, padded and unpadded text for each of these."""
    for num_chains, shared, size, num, epoch, padded, phi in product(
        chains, (True, False), batch_sizes, draws, epochs, (False, True), autocorrelations
    ):
        if shared or num_chains > 1:
            yield Cell(num_chains, shared, size, num, epoch, padded, phi)


@dataclass(frozen=True)
class Replica:
    """One run of a cell: the losses of rows at w0, and those of the rows of each step at w."""

    start: np.ndarray
    count: np.ndarray
    rows: np.ndarray
    initial: np.ndarray
    loss: np.ndarray
    truth: float

    @classmethod
    def of(cls, cell: Cell, rng: np.random.Generator) -> Replica:
        """Simulate a run."""
        num_steps, size = NUM_BURNIN + cell.num_draws, cell.batch_size
        per_epoch = max(1, round(cell.num_draws / cell.epochs))
        num_rows = per_epoch * size
        count = rng.integers(1, 17, num_rows) if cell.padded else np.full(num_rows, 16)
        level = rng.normal(size=num_rows)
        # Short rows have noisier means, and long ones higher losses.
        start = 3 + 2.4 / np.sqrt(count) * level + 0.05 * (count - 8)
        curvature = 10 * np.exp(0.5 * level + math.sqrt(0.75) * rng.normal(size=num_rows) - 0.5)
        slope = rng.normal(size=(num_rows, NUM_WEIGHTS)) / 2
        streams = [rng.permutation(num_rows) for _ in range(1 if cell.shared else cell.num_chains)]
        epochs = np.stack(streams).reshape(len(streams), per_epoch, size)
        rows, initial = (epochs[:, np.arange(num) % per_epoch] for num in (num_steps, NUM_INITIAL))
        weights = SIGMA * autoregression(rng, (cell.num_chains, num_steps, NUM_WEIGHTS), cell.autocorrelation)
        squares = (weights**2).sum(-1)[..., None] / 2
        used = np.broadcast_to(rows, (cell.num_chains, *rows.shape[1:]))
        linear = np.stack([np.einsum("tbk,tk->tb", slope[r], w) for r, w in zip(used, weights, strict=True)])
        loss = start[used] + linear + curvature[used] * squares
        rise = curvature * NUM_WEIGHTS * SIGMA**2 / 2
        return cls(start, count, rows, initial, loss, N_BETA * float(mean(rise, count, epochs).mean()))

    def series(self) -> tuple[np.ndarray, np.ndarray]:
        """Return L_B(w) and L_B(w0) after burn-in, ``(chain, step)``."""
        at_w = (self.loss * self.count[self.rows]).sum(-1) / self.count[self.rows].sum(-1)
        at_w0 = np.broadcast_to(mean(self.start, self.count, self.rows), at_w.shape)
        return at_w[:, NUM_BURNIN:], at_w0[:, NUM_BURNIN:]

    def row_variance(self) -> float:
        """Return the variance of what a row adds to the mean of a minibatch."""
        used = np.unique(self.rows)
        total, count = (self.start * self.count)[used], self.count[used]
        return float(((total - count * total.sum() / count.sum()) / count.mean()).var(ddof=1))

    def tree(self, cell: Cell) -> xr.DataTree:
        """Return the run as a tree that recorded means of sequences."""
        shape = self.loss.shape
        settings = {
            "n_beta": N_BETA,
            "num_burnin_steps": NUM_BURNIN,
            "num_init_loss_batches": NUM_INITIAL,
            "batch_size": cell.batch_size,
            "match_sampling_input_ids_across_chains": cell.shared,
            "record": "sequence",
        }
        used = np.unique(self.rows)
        initial = np.broadcast_to(mean(self.start, self.count, self.initial).mean(1), shape[:1])
        trace = xr.Dataset(
            {
                "loss": ((RESTRICTION, CHAIN, STEP, BATCH), self.loss[None]),
                "sequence_id": ((CHAIN, STEP, BATCH), np.broadcast_to(self.rows, shape)),
                "init_loss": ((CHAIN,), initial),
                "init_loss_mean": ((CHAIN,), initial),
                "init_loss_mean_se": ((CHAIN,), np.full(shape[0], np.nan)),
                "row_id": ((ROW,), used, {"num_rows": len(self.start)}),
                "row_loss": ((ROW,), self.start[used]),
                "row_count": ((ROW,), self.count[used]),
            }
        )
        root = xr.Dataset(
            coords={
                RESTRICTION: np.array(["full"], dtype=object),
                CHAIN: np.arange(shape[0]),
                DRAW: np.arange(cell.num_draws),
            },
            attrs={"schema_version": schema.SCHEMA_VERSION, "config": json.dumps(settings)},
        )
        state = np.full((1, shape[0]), schema.FINISHED, dtype=object)
        status = xr.Dataset({"state": ((RESTRICTION, CHAIN), state)})
        return xr.DataTree.from_dict({"/": root, "/trace": trace, "/status": status})


def mean(values: np.ndarray, count: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean over the unmasked losses of minibatches ``(..., row)``."""
    return np.asarray((values[rows] * count[rows]).sum(-1) / count[rows].sum(-1))


def autoregression(rng: np.random.Generator, shape: tuple[int, ...], coefficient: float) -> np.ndarray:
    """Return stationary AR(1) processes of variance 1 along the last axis but one."""
    values = rng.normal(size=shape)
    for step in range(1, shape[-2]):
        values[..., step, :] *= math.sqrt(1 - coefficient**2)
        values[..., step, :] += coefficient * values[..., step - 1, :]
    return values


@dataclass(frozen=True)
class Estimates:
    """Estimates of many replicas with their standard errors, and how many of these a 95 % interval reaches."""

    value: np.ndarray
    error: np.ndarray
    reach: float
    truth: np.ndarray

    @property
    def coverage(self) -> float:
        """Return how often the interval holds the truth."""
        return float((np.abs(self.value - self.truth) <= self.reach * self.error).mean())

    @property
    def ratio(self) -> float:
        """Return the median stated error over the standard deviation of the estimates."""
        return float(np.median(self.error) / (self.value - self.truth).std())


def llc_estimates(cell: Cell, replicas: Iterable[Replica]) -> dict[str, Estimates]:
    """Return ``paired_llc`` and ``llc`` of runs, by the functions that `compute_llc` uses."""
    options = {"burnin": NUM_BURNIN, "num_minibatches": 1, "num_initial": NUM_INITIAL}
    parts = []
    for one in replicas:  # which are large: only what is needed of each is kept
        shares = shares_of_rows(one.rows, population=len(one.start), **options)
        initial = float(mean(one.start, one.count, one.initial).mean())
        parts.append((*one.series(), shares, one.row_variance(), initial, one.truth))
    at_w, at_w0, shares, row_variance, initial, truth = (np.stack(each) for each in zip(*parts, strict=True))
    variance = mean_variance(at_w - at_w0, shared=cell.shared, data_share=shares[:, 0])
    reach = half_width(contrasts(cell.num_chains, cell.num_draws, cell.shared).degrees_of_freedom)
    usual = half_width(math.inf)
    unpaired_error = np.sqrt(variance * (reach / usual) ** 2 + shares[:, 1] * row_variance)
    return {
        "paired_llc": Estimates(N_BETA * (at_w - at_w0).mean((1, 2)), N_BETA * np.sqrt(variance), reach, truth),
        "llc": Estimates(N_BETA * (at_w.mean((1, 2)) - initial), N_BETA * unpaired_error, usual, truth),
    }


def fixed_data_estimates(
    rng: np.random.Generator, cell: Cell, num_replicas: int, *, linear: bool, common: float = 0.0, white: float = 0.0
) -> Estimates:
    """Return means of losses of the same data at every draw, as of an observable or of a token.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random numbers.
    cell : Cell
        Chains, draws and autocorrelation.
    num_replicas : int
        Runs.
    linear : bool
        A loss that is linear in one weight, as of single tokens, instead of one that is quadratic in all.
    common : float, default: 0.0
        Share of the variance of weights that all chains have in common, because the same minibatches drive them.
    white : float, default: 0.0
        Variance of noise that is fresh at each draw, in units of that of the signal.
    """
    shape = (num_replicas, cell.num_chains, cell.num_draws, 1 if linear else NUM_WEIGHTS)
    weights = autoregression(rng, shape, cell.autocorrelation)
    if common:
        same = autoregression(rng, (num_replicas, 1, *shape[2:]), cell.autocorrelation)
        weights = math.sqrt(1 - common) * weights + math.sqrt(common) * same
    series = weights[..., 0] if linear else (weights**2).sum(-1) / 2
    series = series + math.sqrt(white * (1 if linear else NUM_WEIGHTS / 2)) * rng.normal(size=series.shape)
    truth = np.full(num_replicas, 0.0 if linear else NUM_WEIGHTS / 2)
    reach = half_width(contrasts(cell.num_chains, cell.num_draws, cell.shared).degrees_of_freedom)
    error = np.sqrt(mean_variance(series, shared=cell.shared))
    return Estimates(series.mean((1, 2)), error, reach, truth)


def measure(cell: Cell, num_replicas: int, seed: int = 0) -> dict[str, Estimates]:
    """Return all estimates of a cell: of the run, and of an observable and a token."""
    rng = np.random.default_rng([seed, *(int(1000 * value) for value in asdict(cell).values())])
    estimates = llc_estimates(cell, (Replica.of(cell, rng) for _ in range(num_replicas)))
    for name, linear in (("observable_llc", False), ("token llc", True)):
        estimates[name] = fixed_data_estimates(rng, cell, num_replicas, linear=linear)
    return estimates


def print_table(grid: Iterable[Cell] | None = None, num_replicas: int = 200) -> list[tuple[Cell, dict[str, Estimates]]]:
    """Print the coverage of every cell of a grid (default: the whole), and return the estimates."""
    names = ("paired_llc", "llc", "observable_llc", "token llc")
    print("chains  minibatches  batch  draws  epochs  padded   AR  " + "  ".join(f"{name:>14s}" for name in names))
    measured = []
    for cell in cells() if grid is None else grid:
        estimates = measure(cell, num_replicas)
        columns = [f"{100 * estimates[name].coverage:5.1f} % ({estimates[name].ratio:4.2f})" for name in names]
        sharing = "shared" if cell.shared else "own"
        print(
            f"{cell.num_chains:6d}  {sharing:>11s}  {cell.batch_size:5d}  {cell.num_draws:5d}  {cell.epochs:6g}  "
            f"{'yes' if cell.padded else 'no':>6s}  {cell.autocorrelation:3g}  "
            + "  ".join(f"{column:>14s}" for column in columns),
            flush=True,
        )
        measured.append((cell, estimates))
    return measured


if __name__ == "__main__":
    print_table()
