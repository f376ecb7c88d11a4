"""The arrays that the store of a run will hold, with the data that are known before it is sampled."""

from __future__ import annotations

import json

import numpy as np

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.initial_loss import InitialLoss, initial_loss, loss_at_w0
from devinterp.sampling.chains.row_losses import RowLosses, row_losses
from devinterp.sampling.run_store.compare import Extension
from devinterp.sampling.spec import RunRecorder, RunSpec
from devinterp.store.arrays.layout import ObservableLayout, RecordingLayout, RowLayout, RunLayout, VirialLayout
from devinterp.store.run_store import RunStore

_INITIAL = ("init_loss", "init_loss_se", "init_loss_mean", "init_loss_mean_se")
_AT_W0 = tuple(name.replace("init_loss", "w0_loss") for name in _INITIAL)


def layout_of(spec: RunSpec, *, paired: bool) -> RunLayout:
    """Return the layout of a new store, measuring the losses at w0.

    Parameters
    ----------
    spec : RunSpec
        The run.
    paired : bool
        Whether the losses at w0 of all rows that steps use are stored.

    Raises
    ------
    InvalidInputError
        If a loss at w0 is not finite.
    """
    rows = row_losses(spec, spec.schedule.step_rows()) if paired else None
    return planned_layout(spec, initial_loss(spec), rows, _loss_at_w0(spec))


def planned_layout(
    spec: RunSpec, start: InitialLoss, rows: RowLosses | None, at_w0: dict[str, np.ndarray]
) -> RunLayout:
    """Return the layout of a new store, given the losses of its sampling dataset; those of observables are measured."""
    return _layout(spec, start, {name: _measure(spec, name) for name in spec.observables}, rows, at_w0)


def extended_layout(extension: Extension, store: RunStore) -> RunLayout:
    """Return the layout of a store that is to hold more, measuring only what it lacks."""
    spec = extension.spec
    observables = {
        name: _measure(spec, name) if name in extension.observables else _read_observable(store, name)
        for name in spec.observables
    }
    starts_elsewhere = spec.settings.init_noise is not None
    if extension.chains or (starts_elsewhere and extension.restrictions):
        start = initial_loss(spec)
    else:
        start = InitialLoss(*(_read(store, name) for name in _INITIAL))
    at_w0 = {name: _read(store, name) for name in _AT_W0 if store.contains(f"{schema.TRACE}/{name}")}
    if extension.chains or (extension.rows and not at_w0):
        at_w0 = _loss_at_w0(spec)
    return _layout(spec, start, observables, _rows(extension, store), at_w0)


def _rows(extension: Extension, store: RunStore) -> RowLosses | None:
    """Return the losses at w0 of all rows of a run, measuring those that the store lacks; None where it is to have none."""
    has_rows = store.contains(f"{schema.TRACE}/row_id")
    if not has_rows and not extension.rows:
        return None
    needed = extension.spec.schedule.step_rows()
    if not has_rows:
        return row_losses(extension.spec, needed)
    has_counts = store.contains(f"{schema.TRACE}/row_count")
    stored = RowLosses(
        _read(store, "row_id"), _read(store, "row_loss"), _read(store, "row_count") if has_counts else None
    )
    new = np.setdiff1d(needed, stored.ids)
    return stored.joined(row_losses(extension.spec, new)) if len(new) else stored


def _loss_at_w0(spec: RunSpec) -> dict[str, np.ndarray]:
    """Return the loss at w0 and its errors where chains start elsewhere, by the names of their variables."""
    if spec.settings.init_noise is None:
        return {}
    loss = loss_at_w0(spec)
    return dict(zip(_AT_W0, (loss.mean, loss.se, loss.overall, loss.overall_se), strict=True))


def _read(store: RunStore, name: str) -> np.ndarray:
    return store.read_array(f"{schema.TRACE}/{name}")


def _layout(
    spec: RunSpec,
    start: InitialLoss,
    observables: dict[str, ObservableLayout],
    rows: RowLosses | None,
    at_w0: dict[str, np.ndarray],
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
        w0_loss=at_w0,
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


def _measure(spec: RunSpec, name: str) -> ObservableLayout:
    observable = spec.observables[name]
    losses, finite = spec.evaluate(observable.rows, observable.sequence_id)
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
