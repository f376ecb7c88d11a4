"""Response matrices of which the structure is known: modes or clusters of tokens, and noise of each chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Planted:
    """Responses of chains ``(chain, token, restriction)``, and what is in them beside noise."""

    values: xr.DataArray
    signal: np.ndarray
    directions: np.ndarray
    scores: np.ndarray


def modes(
    sizes: tuple[float, ...],
    *,
    num_chains: int = 4,
    num_tokens: int = 300,
    width: int = 8,
    noise: float = 1.0,
    seed: int = 0,
    noise_rank: int = 0,
) -> Planted:
    """Return modes with these standard deviations along orthogonal directions, and noise in every chain.

    With `noise_rank` the noise of a chain has this rank over tokens, as that of few effective draws has.
    """
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(num_tokens, len(sizes)))
    scores = np.linalg.qr(raw - raw.mean(0))[0] * np.sqrt(num_tokens)
    directions = np.linalg.qr(rng.normal(size=(width, len(sizes))))[0]
    signal = scores @ np.diag(sizes) @ directions.T
    if noise_rank:
        mixing = rng.normal(size=(num_tokens, noise_rank)) / np.sqrt(noise_rank)
        of_chains = mixing @ rng.normal(size=(num_chains, noise_rank, width))
    else:
        of_chains = rng.normal(size=(num_chains, num_tokens, width))
    values = xr.DataArray(
        signal + noise * of_chains,
        dims=("chain", "token", "restriction"),
        coords={"restriction": [f"l0h{i}" for i in range(width)]},
    )
    return Planted(values, signal, directions, scores)


def blobs(
    num_clusters: int = 4,
    *,
    num_chains: int = 3,
    size: int = 100,
    width: int = 8,
    distance: float = 8.0,
    noise: float = 0.5,
    background: int = 0,
    seed: int = 0,
) -> tuple[xr.DataArray, np.ndarray]:
    """Return responses ``(chain, token, restriction)`` of tokens in clusters, and the cluster of each, -1 for none.

    Clusters are spheres of standard deviation 1 whose centres are about `distance` apart; the background is a wide one.
    """
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(width, num_clusters)))[0].T * distance / np.sqrt(2)
    labels = np.concatenate([np.repeat(np.arange(num_clusters), size), np.full(background, -1)])
    positions = np.where(labels[:, None] >= 0, centres[labels], 0.0)
    spread = np.where(labels >= 0, 1.0, distance / 2)[:, None]
    tokens = positions + spread * rng.normal(size=(len(labels), width))
    order = rng.permutation(len(labels))
    values = tokens[order] + noise * rng.normal(size=(num_chains, len(labels), width))
    return xr.DataArray(values, dims=("chain", "token", "restriction")), labels[order]
