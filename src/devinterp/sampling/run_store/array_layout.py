"""The arrays that the store of a run will hold, with the data that are known before it is sampled."""

from __future__ import annotations

import json

import numpy as np

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.initial_loss import InitialLoss, initial_loss, loss_at_w0
from devinterp.sampling.chains.row_losses import RowLosses, row_losses
from devinterp.sampling.engines.losses_at_w0 import LossesAtW0
from devinterp.sampling.run_store.compare import Extension
from devinterp.sampling.spec import RunRecorder, RunSpec
from devinterp.store.arrays.layout import ObservableLayout, RecordingLayout, RowLayout, RunLayout, VirialLayout
from devinterp.store.run_store import RunStore

#: Names of the arrays that hold losses at w0 of single rows, in the same order of rows.
ROW_ARRAYS = ("row_id", "row_loss", "row_count")
_INITIAL = ("init_loss", "init_loss_se", "init_loss_mean", "init_loss_mean_se")
_AT_W0 = tuple(name.replace("init_loss", "w0_loss") for name in _INITIAL)


def layout_of(at_w0: LossesAtW0, *, paired: bool) -> RunLayout:
    """Return the layout of a new store, measuring the losses at w0.

    Parameters
    ----------
    at_w0 : LossesAtW0
        The run's losses.
    paired : bool
        Whether the losses at w0 of all rows that steps use are stored.

    Raises
    ------
    InvalidInputError
        If a loss at w0 is not finite.
    """
    rows = row_losses(at_w0, at_w0.spec.schedule.step_rows()) if paired else None
    return planned_layout(at_w0, initial_loss(at_w0), rows, _loss_at_w0(at_w0))


def planned_layout(
    at_w0: LossesAtW0, start: InitialLoss, rows: RowLosses | None, w0_loss: dict[str, np.ndarray]
) -> RunLayout:
    """Return the layout of a new store, given the losses of its sampling dataset; those of observables are measured."""
    return _layout(at_w0.spec, start, {name: _measure(at_w0, name) for name in at_w0.spec.observables}, rows, w0_loss)


def extended_layout(extension: Extension, store: RunStore, at_w0: LossesAtW0) -> RunLayout:
    """Return the layout of a store that is to hold more, measuring only what it lacks.

    Parameters
    ----------
    extension : Extension
        What it is to hold.
    store : RunStore
        The store.
    at_w0 : LossesAtW0
        Losses of the run that is extended.
    """
    spec = extension.spec
    observables = {
        name: _measure(at_w0, name) if name in extension.observables else _read_observable(store, name)
        for name in spec.observables
    }
    starts_elsewhere = spec.settings.init_noise is not None
    if extension.chains or (starts_elsewhere and extension.restrictions):
        start = initial_loss(at_w0)
    else:
        start = InitialLoss(*(_read(store, name) for name in _INITIAL))
    w0_loss = {name: _read(store, name) for name in _AT_W0 if store.contains(f"{schema.TRACE}/{name}")}
    if extension.chains or (extension.rows and not w0_loss):
        w0_loss = _loss_at_w0(at_w0)
    return _layout(spec, start, observables, _rows(extension, store, at_w0), w0_loss)


def _rows(extension: Extension, store: RunStore, at_w0: LossesAtW0) -> RowLosses | None:
    """Return the losses at w0 of all rows of a run, measuring those that the store lacks; None where it is to have none."""
    has_rows = store.contains(f"{schema.TRACE}/row_id")
    if not has_rows and not extension.rows:
        return None
    needed = extension.spec.schedule.step_rows()
    if not has_rows:
        return row_losses(at_w0, needed)
    has_counts = store.contains(f"{schema.TRACE}/row_count")
    stored = RowLosses(
        _read(store, "row_id"), _read(store, "row_loss"), _read(store, "row_count") if has_counts else None
    )
    new = needed[~np.isin(needed, stored.ids)]
    return stored.joined(row_losses(at_w0, new)) if len(new) else stored


def _loss_at_w0(at_w0: LossesAtW0) -> dict[str, np.ndarray]:
    """Return the loss at w0 and its errors where chains start elsewhere, by the names of their variables."""
    if at_w0.spec.settings.init_noise is None:
        return {}
    loss = loss_at_w0(at_w0)
    return dict(zip(_AT_W0, (loss.mean, loss.se, loss.overall, loss.overall_se), strict=True))


def _read(store: RunStore, name: str) -> np.ndarray:
    return store.read_array(f"{schema.TRACE}/{name}")


def _layout(
    spec: RunSpec,
    start: InitialLoss,
    observables: dict[str, ObservableLayout],
    rows: RowLosses | None,
    w0_loss: dict[str, np.ndarray],
) -> RunLayout:
    settings = spec.settings
    return RunLayout(
        restrictions={name: masks.num_elements for name, masks in spec.restrictions.items()},
        num_chains=settings.num_chains,
        num_steps=settings.num_steps,
        draw_steps=np.arange(settings.num_draws) * settings.num_steps_bw_draws + settings.num_burnin_steps,
        sequence_id=np.stack([np.stack(spec.schedule.steps(chain)) for chain in range(settings.num_chains)]),
        init_loss=start.mean,
        init_loss_se=start.se,
        init_loss_mean=start.overall,
        init_loss_mean_se=start.overall_se,
        observables=observables,
        metrics=settings.metric_names,
        loss_dims=spec.loss_dims,
        record=settings.record,
        loss_dtype=settings.loss_dtype,
        rows=None if rows is None else RowLayout(rows.ids, rows.loss, rows.count, spec.num_rows),
        w0_loss=w0_loss,
        virial=_virial(spec) if spec.virial else None,
        recordings={name: _recording(recorder) for name, recorder in spec.recorders.items()},
    )


def _recording(recorder: RunRecorder) -> RecordingLayout:
    recording, settings = recorder.recording, {"recorder": recorder.kind, "settings": json.dumps(recorder.settings)}
    coords = {name: (tuple(dims), np.asarray(values)) for name, (dims, values) in recording.coords.items()}
    return RecordingLayout(recorder.initial, recording.dims, coords, recording.attrs, settings)


def _virial(spec: RunSpec) -> VirialLayout:
    sizes = {
        name: np.array([masks[name].num_elements if name in masks else 0 for masks in spec.restrictions.values()])
        for name in spec.parameter_names
    }
    curvatures = np.stack([spec.directions[name].curvatures for name in spec.restrictions]) if spec.directions else None
    return VirialLayout(sizes, in_box=spec.settings.bounding_box_size is not None, curvatures=curvatures)


def _measure(at_w0: LossesAtW0, name: str) -> ObservableLayout:
    spec, observable = at_w0.spec, at_w0.spec.observables[name]
    losses, finite = at_w0.of_observable(name)
    if not finite:
        raise InvalidInputError(
            f"the loss of observable {name!r} at the starting weights is not finite, or beyond "
            f"{spec.settings.largest_loss:.3g}, the largest number that is stored."
        )
    tokens = observable.rows.token_ids
    return ObservableLayout(
        init_loss=losses.float().cpu().numpy(),
        sequence_id=observable.sequence_id,
        token_ids=None if tokens is None else tokens.cpu()[observable.rows.index(observable.sequence_id)].numpy(),
    )


def _read_observable(store: RunStore, name: str) -> ObservableLayout:
    group = f"{schema.OBSERVABLES}/{name}"
    return ObservableLayout(
        init_loss=store.read_array(f"{group}/init_loss"),
        sequence_id=store.read_array(f"{group}/sequence_id"),
        token_ids=store.read_array(f"{group}/token_ids") if store.contains(f"{group}/token_ids") else None,
    )
