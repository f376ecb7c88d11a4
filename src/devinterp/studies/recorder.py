"""Sampling at chosen steps of a training loop, into one study; training goes on as if nothing had happened."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import xarray as xr
from torch import nn

from devinterp import optional
from devinterp.errors import FailedRunsWarning, InvalidInputError
from devinterp.models.wrappers import unwrapped
from devinterp.store.reading.study_table import StudyTable
from devinterp.store.study_store import StudyStore
from devinterp.studies.arguments import arguments_of, split
from devinterp.studies.axes import Label, Point, axis, run_name
from devinterp.studies.model_sources import CHECKPOINT, identity_of
from devinterp.studies.requests import Requests, is_stored
from devinterp.studies.run_one import failure, run_into

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike


@final
class TrainingRecorder:
    """Samples around the weights of a model that is being trained, at chosen steps, into one study.

    Sampling happens in eval mode, on the model itself. Weights, buffers, gradients, modes, the optimizer and all random states
    are as they were afterwards, so that training ends in the same weights as without. What goes wrong is recorded in the study
    and warned of; it does not end training.

    Parameters
    ----------
    dataset, observables : object
        As for `devinterp.sample`.
    output_path : str, path or zarr store
        Where the study is written. What it holds already is not sampled again.
    steps : iterable of int or callable, optional
        At which steps to sample, or a function that says so of a step. See `log_spaced`, `evenly_spaced` and `union`. Default:
        whenever `checkpoint` is called.
    labels : mapping of str to label, optional
        What else tells this training run from others in the same study, as ``{"seed": 0}``.
    **arguments : Any
        Every other argument of `devinterp.sample`; ``lr`` and ``n_beta`` are needed.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used.
    StoreError
        If something else is at `output_path`.
    """

    def __init__(
        self,
        dataset: Any,
        observables: Any = None,
        *,
        output_path: StoreLike,
        steps: Iterable[int] | Callable[[int], bool] | None = None,
        labels: Mapping[str, Label] | None = None,
        **arguments: Any,
    ) -> None:
        given = {**arguments, "dataset": dataset, "observables": observables, "output_path": output_path}
        self._base, self._how = split(given)
        if output_path is None:
            raise InvalidInputError("a recorder needs an `output_path`: training may end before anybody looks.")
        self._labels = dict(labels or {})
        for name, label in self._labels.items():
            axis(name, {label: label})
        self._steps = None if steps is None or callable(steps) else frozenset(int(step) for step in steps)
        self._is_due: Callable[[int], bool] = (
            steps if callable(steps) else (lambda step: self._steps is None or step in self._steps)
        )
        self._arguments = arguments_of(self._point(0), (CHECKPOINT, *self._labels), self._base, same_noise=True)
        self._requests = Requests(self._how)
        self._store = StudyStore.at(output_path, storage_options=self._how.storage_options)
        self._failed: dict[str, str] = {}
        self._dims = {name: [name] for name in (CHECKPOINT, *self._labels)}
        with self._store.lock():
            self._add(self._steps or ())

    def checkpoint(self, model: nn.Module, step: int) -> bool:
        """Sample around the weights that a model has at a step of training, if it is one of those chosen.

        Parameters
        ----------
        model : torch.nn.Module
            The model, in any mode; as it was afterwards.
        step : int
            Steps of training so far.

        Returns
        -------
        bool
            Whether the study holds a run of this step now.
        """
        if not self._is_due(step):
            return False
        point = self._point(step)
        name = run_name(point.labels)
        try:
            with _training_kept(model):
                self._sample(model, point, name)
        except Exception as error:  # training must not end because of it
            record = failure(error, point.labels)
            self._failed[name] = record["error"]
            warnings.warn(f"no run of step {step} was recorded: {record['error']}", FailedRunsWarning, stacklevel=2)
            self._try_to_record(name, record)
            return False
        return True

    def finish(self) -> xr.DataTree:
        """Return the study as a lazy tree, after completing what makes opening it fast.

        Raises
        ------
        StoreError
            If nothing has been recorded.
        """
        with self._store.lock():
            self._store.consolidate()
        return self._store.open_tree()

    def trainer_callback(self) -> Any:
        """Return a ``transformers.TrainerCallback`` that samples before training and after the chosen steps.

        Raises
        ------
        MissingPackageError
            If transformers is not installed.
        """
        optional.require("transformers")
        from devinterp.studies.trainer_callback import RecorderCallback

        return RecorderCallback(self)

    def _point(self, step: int) -> Point:
        labels: dict[str, Label] = {CHECKPOINT: int(step), **self._labels}
        return Point(labels, labels)

    def _sample(self, model: nn.Module, point: Point, name: str) -> None:
        store = self._store
        with store.lock():
            self._add([int(point.labels[CHECKPOINT])])
            identity = identity_of(model)
            request = self._requests.digest(self._arguments, identity)
            if not is_stored(store, name, request, self._how):
                note = {"labels": dict(point.labels), "dims": self._dims, "model": identity, "request": request}
                run_into(store.place(name), model, self._arguments, self._how, note)
            store.clear_failure(name)

    def _add(self, steps: Iterable[int]) -> None:
        """Put the runs of steps into the study's table, where they are not there already."""
        table = self._store.table()
        points = [self._point(step) for step in sorted(steps)]
        ours = {run_name(point.labels): dict(point.labels) for point in points}
        stored = {} if table is None else table.runs
        if table is not None and dict(table.dims) != self._dims:
            raise InvalidInputError(
                f"{self._store.name} is a study over {', '.join(table.dims)}, and this recorder is over "
                f"{', '.join(self._dims)}: choose another path, or other `labels`."
            )
        if table is None or not set(ours) <= set(stored):
            self._store.write_table(StudyTable(self._dims, {**stored, **ours}))

    def _try_to_record(self, name: str, record: Mapping[str, Any]) -> None:
        try:
            self._store.record_failure(name, record)
        except Exception as error:  # the store itself may be what is wrong
            warnings.warn(f"the failure could not be recorded either: {error}", FailedRunsWarning, stacklevel=3)


@contextmanager
def _training_kept(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode while the block runs, and every random state and mode back afterwards.

    Modes are set as flags: ``train()`` and ``eval()`` of some modules do more than that.
    """
    inner = unwrapped(model)
    modes = [(module, module.training) for module in inner.modules()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # a loss function may draw from the global ones
    devices = {parameter.device.type for parameter in inner.parameters()} | {"cpu"}
    try:
        for module, _ in modes:
            module.training = False
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count()) if "cuda" in devices else ()),
            _full_precision(devices),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _full_precision(devices: Iterable[str]) -> Iterator[None]:
    """Switch off, while the block runs, the automatic mixed precision that a training loop may be in."""
    cpu = torch.autocast("cpu", enabled=False)
    with cpu, torch.autocast("cuda" if "cuda" in devices else "cpu", enabled=False):
        yield
