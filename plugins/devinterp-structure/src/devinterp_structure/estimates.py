"""Susceptibilities of a run as rows of tokens: from ``(restriction, sequence, position)`` to ``(token, restriction)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from devinterp.analyses.common.run_data import losses, pad_tokens, restriction_names
from devinterp.analyses.susceptibilities.prepared import PreparedRun
from devinterp.errors import InvalidInputError
from devinterp.schema import LOSS_MEAN, OBSERVABLES, POSITION, SEQUENCE, TOKEN
from devinterp_structure.lazy import Array, in_row_blocks


def columns(prepared: PreparedRun, wanted: Sequence[str] | None, full: str) -> list[int]:
    """Return which restrictions are columns: those asked for, or all but that of all weights.

    Raises
    ------
    InvalidInputError
        If one is not there.
    """
    names = restriction_names(prepared.run)
    if wanted is None:
        others = [index for index, name in enumerate(names) if name != full]
        return others or list(range(len(names)))
    unknown = [name for name in wanted if name not in names]
    if unknown or not len(wanted):
        raise InvalidInputError(f"`restrictions` (={list(wanted)}) must be some of those of the run: {names}.")
    return [names.index(name) for name in wanted]


def estimates(prepared: PreparedRun, chosen: Sequence[int], *, leave_out: bool) -> Array:
    """Return susceptibilities ``(variant, token, restriction)`` as float32, the tokens of all observables in one row.

    Parameters
    ----------
    prepared : PreparedRun
        The run.
    chosen : sequence of int
        Which restrictions are columns.
    leave_out : bool
        Whether the estimates without one chain each follow that of all chains.
    """
    num_chains = prepared.series.loss.shape[1]
    parts = []
    for name, each in prepared.variants("jackknife" if leave_out else "none").items():
        # Where L0 has an error of its own, estimates with L0 larger by it follow; these are not needed here.
        values = each[: 1 + num_chains if leave_out and num_chains > 1 else 1][:, list(chosen)]
        flat = values.reshape(*values.shape[:2], -1)
        rows = np.flatnonzero(_present(prepared.run, name, values.shape[2:]).ravel())
        if len(rows) < flat.shape[2]:
            flat = flat[:, :, rows]
        parts.append(flat.astype(np.float32).transpose(0, 2, 1))
    is_lazy = any(isinstance(part, da.Array) for part in parts)
    return in_row_blocks(da.concatenate(parts, axis=1)) if is_lazy else np.concatenate(parts, axis=1)


def labels(prepared: PreparedRun) -> xr.Dataset:
    """Return what the rows are: coordinates ``observable``, ``sequence``, ``position`` of each token, and the texts.

    ``text(token)`` is the row of a token's text in ``token_ids(text_row, text_token)``, which is there if the run holds token
    ids, -1 past the end of a text; ``token_id(token)`` is the token's own.
    """
    run = prepared.run
    parts: list[tuple[np.ndarray, ...]] = []
    texts: list[np.ndarray] = []
    for number, name in enumerate(prepared.moments):
        group = f"{OBSERVABLES}/{name}"
        loss = losses(run, group, "loss" if "loss" in run[group] else LOSS_MEAN)
        shape = (loss.sizes[SEQUENCE], loss.sizes[POSITION])
        sequence, place = np.nonzero(_present(run, name, shape))
        positions = loss[POSITION].to_numpy() if POSITION in loss.coords else np.arange(1, shape[1] + 1)
        before = sum(len(each) for each in texts)
        parts.append((np.full(len(sequence), number), sequence, positions[place], before + sequence))
        texts.append(_token_ids(run, group, shape[0]))
    observable, sequence, position, text = (np.concatenate(each) for each in zip(*parts, strict=True))
    names = np.array(list(prepared.moments), dtype=object)
    coords: dict[str, Any] = {"observable": names[observable], SEQUENCE: sequence, POSITION: position, "text": text}
    dataset = xr.Dataset(coords={name: (TOKEN, values) for name, values in coords.items()})
    if all(each.shape[1] > 0 for each in texts):
        width = max(each.shape[1] for each in texts)
        ids = np.concatenate([pad_tokens(xr.Variable(("text", TOKEN), each), width).to_numpy() for each in texts])
        dataset["token_ids"] = (("text_row", "text_token"), ids)
        if (position < width).all():
            dataset = dataset.assign_coords(token_id=(TOKEN, ids[text, position]))
    return dataset


def _present(run: xr.DataTree, name: str, shape: Sequence[int]) -> np.ndarray:
    """Return which tokens have a loss, ``(sequence, position)``: those that had one at the starting weights."""
    group = run[f"{OBSERVABLES}/{name}"]
    if "init_loss" not in group:
        return np.ones(tuple(shape), dtype=bool)
    initial = losses(run, f"{OBSERVABLES}/{name}", "init_loss").transpose(SEQUENCE, POSITION)
    return np.asarray(~np.isnan(initial.to_numpy()))


def _token_ids(run: xr.DataTree, group: str, num_sequences: int) -> np.ndarray:
    if "token_ids" not in run[group]:
        return np.empty((num_sequences, 0), dtype=np.int64)
    ids = run[f"{group}/token_ids"].transpose(SEQUENCE, TOKEN)
    return np.asarray(ids.to_numpy())
