"""What a calibration has done so far, kept in the root of its store, so that it can go on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from devinterp.calibration.judged import Judged
from devinterp.calibration.measured import Measured
from devinterp.calibration.result import Calibration
from devinterp.errors import StoreMismatchError
from devinterp.store.calibration_store import CalibrationStore

#: What is asked of runs, and changes none: a calibration goes on with another value.
_CHANGES_NO_RUN = {"max_slope"}


class Record:
    """The store of a calibration and what its root says.

    Parameters
    ----------
    store : CalibrationStore
        The store.
    request : mapping
        What is asked for, JSON-able.
    fingerprints : mapping
        Of what is calibrated, JSON-able.

    Raises
    ------
    StoreMismatchError
        If the store holds another calibration; the message says what differs.
    StoreError
        If it holds something else.
    """

    def __init__(self, store: CalibrationStore, request: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> None:
        self.store = store
        asked = {"request": _as_stored(request), "fingerprints": _as_stored(fingerprints)}
        self._values: dict[str, Any] = store.read() or {**asked, "judged": {}, "curvatures": {}}
        differing = [
            f"{part} {name}: {self._values[part].get(name)!r} in the store, {asked[part].get(name)!r} now"
            for part in asked
            for name in asked[part] | self._values[part]
            if name not in _CHANGES_NO_RUN and self._values[part].get(name) != asked[part].get(name)
        ]
        if differing:
            raise StoreMismatchError(
                f"{store.name} holds another calibration; choose another path or delete it. What differs:\n  "
                + "\n  ".join(differing)
            )
        self._values |= asked

    @property
    def measured(self) -> list[Measured] | None:
        """Return what was measured at w0, None before it was."""
        stored = self._values.get("measured")
        return None if stored is None else [Measured.from_json(each) for each in stored]

    def keep_measured(self, measured: Sequence[Measured]) -> None:
        """Store what was measured at w0."""
        self._keep(measured=[each.to_json() for each in measured])

    def judged(self, key: str) -> Judged | None:
        """Return the judgement of a run of some length, None where there is none yet."""
        stored = self._values["judged"].get(key)
        return None if stored is None else Judged.from_json(stored)

    def keep_judged(self, key: str, judged: Judged) -> None:
        """Store the judgement of a run."""
        self._keep(judged={**self._values["judged"], key: judged.to_json()})

    def curvatures(self, run: str) -> tuple[dict[str, float], int] | None:
        """Return the curvature where the chains of a run ended and what it took, None where it was not measured yet."""
        stored = self._values["curvatures"].get(run)
        return None if stored is None else (dict(stored[0]), int(stored[1]))

    def keep_curvatures(self, run: str, curvatures: Mapping[str, float], num_gradients: int) -> None:
        """Store the curvature where the chains of a run ended."""
        self._keep(curvatures={**self._values["curvatures"], run: [dict(curvatures), num_gradients]})

    def finish(self, calibration: Calibration) -> None:
        """Store the result, and make all runs readable as one tree."""
        self._keep(result=calibration.to_json())
        self.store.finish()

    def _keep(self, **changes: Any) -> None:
        self._values.update(_as_stored(changes))
        self.store.write(self._values)


def _as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON gives them back."""
    stored: dict[str, Any] = json.loads(json.dumps(values))
    return stored
