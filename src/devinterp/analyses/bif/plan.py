"""What is compared, and how: tokens, sequences or averages over tokens, as rows whose scalar products are influences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from devinterp.analyses.bif import traces
from devinterp.analyses.bif.averaged import averaged_rows
from devinterp.analyses.bif.sides import Side
from devinterp.analyses.bif.traces import Centring
from devinterp.analyses.common.blockwise import Array, blockwise, join, stored_traces
from devinterp.schema import RESTRICTION

_POSITION_1, _POSITION_2 = "target_position", "target_position_T"


@dataclass(frozen=True)
class Plan:
    """What is compared (``"averaged"``: tokens, averaged over positions), whether by covariance, and how traces are centred."""

    method: Literal["token", "sequence", "averaged"]
    covariance: bool
    centring: Centring

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes that say what a result is."""
        return {
            "method": "sequence" if self.method == "sequence" else "token",
            "average_tokenwise_bif": int(self.method == "averaged"),
            "compute_covariance": int(self.covariance),
            "reduce_chain_dimension_method": self.centring.reduce,
            "centre": self.centring.centre,
            "detrend": int(self.centring.detrend),
        }

    def pair_dims(self, *, tokens: bool = True) -> tuple[str, ...]:
        """Return the dims of a matrix of influences, with positions if these are between tokens."""
        pairs = (RESTRICTION, "batch_1", "batch_2")
        return (*pairs, _POSITION_1, _POSITION_2) if tokens and self.method == "token" else pairs

    def ranked_dims(self) -> tuple[str, ...]:
        """Return the dims of the strongest influences of each query."""
        position = (_POSITION_1,) if self.method == "token" else ()
        return (RESTRICTION, "batch_1", *position, "sign", "rank")

    def side_dims(self, number: Literal[1, 2]) -> tuple[str, ...]:
        """Return the dims of a variable that describes the rows (1) or the columns (2)."""
        dims = (RESTRICTION, f"batch_{number}")
        return dims if self.method == "sequence" else (*dims, _POSITION_1 if number == 1 else _POSITION_2)

    def labels(self, side: Side, number: Literal[1, 2]) -> dict[str, Any]:
        """Return the coordinates that say what the rows (1) or the columns (2) are."""
        dim = f"batch_{number}"
        observable = side.observable.copy(deep=False)
        observable.dims = (dim,)
        coords: dict[str, Any] = {f"observable_{number}": observable, f"sequence_{number}": (dim, side.sequence)}
        if self.method != "sequence":
            coords[_POSITION_1 if number == 1 else _POSITION_2] = side.position
        return coords

    def rows(self, run: xr.DataTree, side: Side) -> Array:
        """Return the rows ``(restriction, sample, sequence[, position])`` of a side."""
        parts = []
        for part, columns in zip(side.parts, side.columns, strict=True):
            losses = stored_traces(part.loss(run))
            function: Callable[..., np.ndarray]
            options: dict[str, Any] = {"centring": self.centring}
            sizes = {"n": self.centring.num_samples(*losses.shape[1:3])}
            if self.method == "token":
                width = len(side.position)
                options |= {"covariance": self.covariance, "columns": columns, "width": width}
                function, out = traces.token_rows, "rnsv"
                sizes["v"] = width
            elif self.method == "averaged" and not self.covariance:
                function, out = averaged_rows, "rns"
            else:
                # Covariances are linear in the traces: their mean over pairs of tokens is the covariance of the means.
                options |= {"covariance": self.covariance}
                function, out = traces.sequence_rows, "rns"
            parts.append(blockwise(function, out, (losses, "rcdst"), sizes=sizes, joined=False, **options))
        return join(parts, 2)

    def constant(self, run: xr.DataTree, side: Side) -> Array:
        """Return which traces of a side do not vary, so that their correlations are undefined."""
        mean, width = self.method == "sequence", len(side.position)
        out, sizes = ("rs", {}) if mean else ("rsv", {"v": width})
        parts = []
        for part, columns in zip(side.parts, side.columns, strict=True):
            losses = stored_traces(part.loss(run))
            options: dict[str, Any] = {"centring": self.centring, "columns": columns, "width": width, "mean": mean}
            parts.append(
                blockwise(traces.constant, out, (losses, "rcdst"), sizes=sizes, dtype=bool, joined=False, **options)
            )
        return join(parts, 1)
