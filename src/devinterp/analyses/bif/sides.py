"""The rows and columns of a result between pairs: which sequences and tokens of which observables they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import join
from devinterp.analyses.common.run_data import pad_tokens, unlabelled_losses
from devinterp.schema import OBSERVABLES, POSITION, SEQUENCE, TOKEN


@dataclass(frozen=True)
class Part:
    """Some sequences and positions of one observable, by index; a boolean `mask` over both may leave out single tokens."""

    name: str
    sequences: np.ndarray
    positions: np.ndarray
    mask: np.ndarray | None = None

    def loss(self, run: xr.DataTree) -> xr.Variable:
        """Return the losses of these tokens, NaN where the mask leaves one out."""
        loss = unlabelled_losses(run, f"{OBSERVABLES}/{self.name}")
        loss = loss.isel({SEQUENCE: _as_slice(self.sequences), POSITION: _as_slice(self.positions)})
        if self.mask is None:
            return loss
        return xr.DataArray(loss).where(xr.DataArray(self.mask, dims=(SEQUENCE, POSITION))).variable

    def take(self, rows: np.ndarray) -> Part:
        """Return some of the sequences, by their places in this part."""
        return Part(self.name, self.sequences[rows], self.positions, None if self.mask is None else self.mask[rows])


@dataclass(frozen=True)
class Side:
    """The rows, or the columns, of a result: sequences of one or several observables, one after the other.

    Parameters
    ----------
    parts : tuple of Part
        The sequences of each observable.
    position : numpy.ndarray
        Labels of the positions of all parts, in order: indices of predicted tokens.
    columns : tuple of numpy.ndarray
        For each part the index of its positions in `position`.
    token_number : numpy.ndarray
        ``(batch, position)``: a number that identifies the token in the run (`TokenNumbers`), -1 where there is none.
    """

    parts: tuple[Part, ...]
    position: np.ndarray
    columns: tuple[np.ndarray, ...]
    token_number: np.ndarray

    @cached_property
    def observable(self) -> xr.Variable:
        """The name of each row's observable."""
        # Indexed out of a few names, because xarray inspects every object of an array that it is given.
        names = xr.Variable(SEQUENCE, np.array([part.name for part in self.parts], dtype=object))
        return names.isel({SEQUENCE: np.repeat(np.arange(len(self.parts)), [len(p.sequences) for p in self.parts])})

    @property
    def sequence(self) -> np.ndarray:
        """The index of each row's sequence in its observable."""
        return np.concatenate([part.sequences for part in self.parts])

    def input_ids(self, run: xr.DataTree) -> xr.Variable | None:
        """Return the token ids ``(sequence, token)``, padded with -1; None for data that are not tokens."""
        ids = []
        for part in self.parts:
            variables = run[f"{OBSERVABLES}/{part.name}"].variables
            if "token_ids" not in variables:
                return None
            ids.append(variables["token_ids"].isel({SEQUENCE: _as_slice(part.sequences)}))
        width = max(each.sizes[TOKEN] for each in ids)
        return xr.Variable((SEQUENCE, TOKEN), join([pad_tokens(each, width).data for each in ids], 0))


class TokenNumbers:
    """A number for every token of every observable of a run, and the observables' sizes."""

    def __init__(self, run: xr.DataTree) -> None:
        self.names = sorted(schema.observable_names(run))
        self.position: dict[str, np.ndarray] = {}
        self.num_sequences: dict[str, int] = {}
        for name in self.names:
            group = run[f"{OBSERVABLES}/{name}"]
            loss = unlabelled_losses(run, f"{OBSERVABLES}/{name}")
            # Stored labels name single positions; where several dims were stacked as positions there are none.
            labelled = POSITION in group.coords and loss.dims == group.variables["loss"].dims
            positions = np.arange(1, loss.sizes[POSITION] + 1)
            self.position[name] = group.variables[POSITION].to_numpy() if labelled else positions
            self.num_sequences[name] = loss.sizes[SEQUENCE]
        sizes = [self.num_sequences[name] * len(self.position[name]) for name in self.names]
        self._offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def of(self, part: Part) -> np.ndarray:
        """Return the numbers of a part's tokens, ``(sequence, position)``, -1 where its mask leaves one out."""
        offset = self._offsets[self.names.index(part.name)]
        numbers: np.ndarray = offset + part.sequences[:, None] * len(self.position[part.name]) + part.positions[None, :]
        return numbers if part.mask is None else np.where(part.mask, numbers, -1)


def _as_slice(indices: np.ndarray) -> Any:
    """Return consecutive indices as a slice, with which less is copied and read; others as they are."""
    if len(indices) and (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
