"""Make one run of a study with a model that is loaded for it, and say what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, final

import xarray as xr
from torch import nn

from devinterp.store.study_store import StudyStore
from devinterp.studies.loading import ModelLoader, may_load_ahead
from devinterp.studies.plan import PlannedRun, StudyPlan
from devinterp.studies.requests import Requests, is_stored
from devinterp.studies.run_one import failure, is_fatal, run_into


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Parameters
    ----------
    error : str or None
        Why it failed.
    diverged, chains : int
        How many of its chains diverged, of how many.
    """

    error: str | None = None
    diverged: int = 0
    chains: int = 0

    @property
    def remark(self) -> str:
        """Return what went wrong, as the end of a sentence; empty where nothing did."""
        if self.error is not None:
            return f" (failed: {self.error.splitlines()[0]})"
        return f" ({self.diverged} of {self.chains} chains diverged)" if self.diverged else ""

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Return what `to_json` gave."""
        return cls(**value)


@final
class RunMaker:
    """Makes runs of a study in this process.

    Parameters
    ----------
    plan : StudyPlan
        The study.
    store : StudyStore or None
        Its store; None: runs are kept in `trees`.
    loader : ModelLoader
        Loads their models.

    Attributes
    ----------
    trees : dict of str to xarray.DataTree
        Runs by their names, where there is no store.
    errors : list of Exception
        What failed runs raised.
    """

    def __init__(self, plan: StudyPlan, store: StudyStore | None, loader: ModelLoader) -> None:
        self._plan, self._store, self._loader = plan, store, loader
        self._requests = Requests(plan.how)
        self.trees: dict[str, xr.DataTree] = {}
        self.errors: list[Exception] = []

    def is_stored(self, run: PlannedRun) -> bool:
        """Say whether the store holds all of a run, without loading its model."""
        if self._store is None or not self._store.attrs(run.name):
            return False
        digest = self._requests.digest(run.arguments, self._plan.source.identity(run.point))
        return is_stored(self._store, run.name, digest, self._plan.how)

    def make(self, run: PlannedRun, following: PlannedRun | None = None) -> Outcome:
        """Make one run, and record it where it fails.

        Parameters
        ----------
        run : PlannedRun
            The run.
        following : PlannedRun, optional
            The next one, whose model may be loaded meanwhile.

        Raises
        ------
        StoreError
            If the store cannot be written, or holds another run.
        """
        diverged = [0, 0]

        def count(some: int, chains: int) -> None:
            diverged[0] += some
            diverged[1] += chains

        try:
            self._make(run, following, count)
        except Exception as error:
            if is_fatal(error):
                raise
            record = failure(error, run.point.labels)
            self.errors.append(error)
            if self._store is not None:
                self._store.record_failure(run.name, record)
            return Outcome(record["error"], *diverged)
        return Outcome(None, *diverged)

    def _make(self, run: PlannedRun, following: PlannedRun | None, count: Any) -> None:
        plan, store = self._plan, self._store
        model = self._loader.get(run.point)
        identity = plan.source.identity(run.point)
        note = {
            "labels": dict(run.point.labels),
            "dims": dict(plan.dims),
            "model": identity,
            "request": self._requests.digest(run.arguments, identity),
        }
        sampled, ahead = self._ready_to_load_ahead(model, run, following)
        tree = run_into(
            None if store is None else store.place(run.name),
            sampled,
            run.arguments,
            plan.how,
            note,
            meanwhile=(lambda: self._loader.ahead(following.point)) if ahead and following else nullcontext,
            tell_diverged=count,
        )
        if store is None:
            assert isinstance(tree, xr.DataTree)
            self.trees[run.name] = tree
        else:
            store.clear_failure(run.name)

    def _ready_to_load_ahead(
        self, model: nn.Module, run: PlannedRun, following: PlannedRun | None
    ) -> tuple[nn.Module, bool]:
        """Return the model to sample, apart from what loading the next one may change, and whether that may be loaded now."""
        key = self._plan.source.key
        needed = following is not None and key(following.point) != key(run.point)
        if not needed or not may_load_ahead(model, run.arguments["loss_fn"] is not None):
            return model, False
        apart = self._loader.apart(model)
        return (model, False) if apart is None else (apart, True)
