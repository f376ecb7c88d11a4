"""What a calibration gives: measurements, a row for every setting that was considered, and one recommendation or none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp.calibration.measured import Measured
from devinterp.calibration.recommendation import Recommendation
from devinterp.calibration.report import report
from devinterp.errors import CalibrationRefused, StoreError

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike

#: What became of a setting, beside codes of findings: recommended; a half step that was compared with; would be run.
RECOMMENDED, COMPARED, TO_BE_RUN = "recommended", "compared", "to be run"


@dataclass(frozen=True)
class Row:
    """A setting that was considered, and what became of it.

    Parameters
    ----------
    kernel : str
        Name of the kernel.
    lr, n_beta, localization : float
        As for `devinterp.sample`.
    batch_size : int
        Rows of a minibatch.
    step, noise, relaxation : float
        From the kernel's law: step times curvature, share of minibatch noise, relaxation time in steps.
    outcome : str
        ``"recommended"``, ``"compared"`` (passed, as the half step of another), ``"to be run"`` (of a dry run), or the code of
        the criterion that failed: of a finding, ``"step_halving"`` or ``"budget"``.
    message : str
        The criterion in a sentence.
    value, limit : float
        The figure that failed and its limit; NaN where there is none.
    checkpoint, restriction : str
        Where it failed.
    num_gradients : int
        Gradients that its runs took, or would take first.
    llc, llc_se, s_gamma, s_gamma_se : float
        The coefficient and its slope in localization, each with its standard error, of the checkpoint and restriction where
        it failed or else the first; NaN where it was not run. The slope of a setting that passed everything else is the
        largest one, from the run at twice the localization where that says more.
    """

    kernel: str
    lr: float
    n_beta: float
    localization: float
    batch_size: int
    step: float
    noise: float
    relaxation: float
    outcome: str
    message: str = ""
    value: float = math.nan
    limit: float = math.nan
    checkpoint: str = ""
    restriction: str = ""
    num_gradients: int = 0
    llc: float = math.nan
    llc_se: float = math.nan
    s_gamma: float = math.nan
    s_gamma_se: float = math.nan


@dataclass(frozen=True)
class Calibration:
    """A finished calibration; with `settings` a run goes on from it, ``devinterp.sample(model, data, **calibration.settings)``.

    Parameters
    ----------
    request : mapping
        What was asked for.
    fingerprints : mapping
        Of weights, data, loss and masks, by checkpoint.
    measured : sequence of Measured
        Curvature and gradient noise of every checkpoint and restriction.
    rows : sequence of Row
        Every setting that was considered, in the order in which it was.
    recommendation : Recommendation or None
        None where it refuses.
    num_gradients : int
        Gradients that all of it takes, whether they were taken now or found in the store.
    tree : xarray.DataTree or None
        The runs; None of a dry run, and where none was begun.
    """

    request: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    measured: Sequence[Measured]
    rows: Sequence[Row]
    recommendation: Recommendation | None
    num_gradients: int
    tree: xr.DataTree | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments of `devinterp.sample` that are recommended.

        They go with the model, the data, the loss and the restrictions (``param_masks``, ``weight_restrictions``) that
        calibration was given, which are no part of them.

        Raises
        ------
        CalibrationRefused
            If none are.
        """
        if self.recommendation is None:
            raise CalibrationRefused(str(self), calibration=self)
        return self.recommendation.settings

    @property
    def points(self) -> xr.Dataset:
        """Return the rows along ``point``, a variable for each of their fields."""
        columns = {
            name: ("point", np.array([getattr(row, name) for row in self.rows], dtype=_dtype(name)))
            for name in Row.__dataclass_fields__
        }
        return xr.Dataset(columns, coords={"point": np.arange(len(self.rows))})

    def __str__(self) -> str:
        return report(self.measured, self.rows, self.recommendation, self.num_gradients)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values, without the tree."""
        return {
            "request": dict(self.request),
            "fingerprints": dict(self.fingerprints),
            "measured": [each.to_json() for each in self.measured],
            "rows": [asdict(row) for row in self.rows],
            "recommendation": None if self.recommendation is None else self.recommendation.to_json(),
            "num_gradients": self.num_gradients,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` made values of."""
        recommendation = values["recommendation"]
        return cls(
            request=values["request"],
            fingerprints=values["fingerprints"],
            measured=[Measured.from_json(each) for each in values["measured"]],
            rows=[Row(**each) for each in values["rows"]],
            recommendation=None if recommendation is None else Recommendation(**recommendation),
            num_gradients=int(values["num_gradients"]),
        )

    @classmethod
    def open(cls, location: StoreLike) -> Calibration:
        """Return the calibration that a store holds.

        Parameters
        ----------
        location : str, path or zarr store
            The ``output_path`` of `devinterp.calibrate`.

        Raises
        ------
        StoreError
            If it holds none, or one that was interrupted.
        """
        from devinterp.store.calibration_store import CALIBRATION, read_root
        from devinterp.store.location import describe
        from devinterp.store.reading.open import open as open_tree

        root = read_root(location)
        values = root[CALIBRATION].get("result")
        if values is None:
            raise StoreError(
                f"{describe(location)} holds no finished calibration: call `devinterp.calibrate` with output_path= this path; "
                "it goes on where it was."
            )
        calibration = cls.from_json(values)
        return replace(calibration, tree=open_tree(location) if calibration.has_runs else None)

    @property
    def has_runs(self) -> bool:
        """Return whether anything was sampled."""
        return any(row.num_gradients and row.outcome != TO_BE_RUN for row in self.rows)


def _dtype(name: str) -> Any:
    kinds = {"str": object, "int": np.int64, "float": np.float64}
    return kinds[str(Row.__dataclass_fields__[name].type)]
