"""What the store of a spec will hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.initial_loss import InitialLoss, initial_loss
from devinterp.sampling.data.schedule import step_rows
from devinterp.sampling.run_store.compare import Extension
from devinterp.sampling.spec import RunSpec
from devinterp.store.arrays.layout import ObservableLayout, RunLayout


def layout(spec: RunSpec, loss_dims: tuple[str, ...], start: InitialLoss) -> RunLayout:
    """Return the layout of a new store.

    Raises
    ------
    InvalidInputError
        If the loss of an observable at the starting weights is not finite.
    """
    observables = {name: _measure(spec, name) for name in spec.observables}
    return _layout(spec, loss_dims, start, observables)


def grown_layout(growth: Extension, loss_dims: tuple[str, ...], root: zarr.Group) -> RunLayout:
    """Return the layout of a store that is to hold more, measuring only what it lacks."""
    spec = growth.spec
    observables = {
        name: _measure(spec, name) if name in growth.observables else _read_observable(root, name)
        for name in spec.observables
    }
    elsewhere = spec.settings.init_noise is not None
    if growth.chains or (elsewhere and growth.restrictions):
        start = initial_loss(spec)
    else:
        start = InitialLoss(*(_read(root, f"{schema.TRACE}/{name}") for name in _INITIAL))
    return _layout(spec, loss_dims, start, observables)


_INITIAL = ("init_loss", "init_loss_se", "init_loss_mean", "init_loss_mean_se")


def _layout(
    spec: RunSpec, loss_dims: tuple[str, ...], start: InitialLoss, observables: dict[str, ObservableLayout]
) -> RunLayout:
    settings = spec.settings
    return RunLayout(
        restrictions={name: masks.num_elements for name, masks in spec.restrictions.items()},
        num_chains=settings.num_chains,
        num_steps=settings.num_steps,
        draw_steps=np.arange(settings.num_draws) * settings.num_steps_bw_draws + settings.num_burnin_steps,
        sequence_id=np.stack([step_rows(settings, spec.num_rows, n) for n in range(settings.num_chains)]),
        init_loss=start.mean,
        init_loss_se=start.se,
        init_loss_mean=start.overall,
        init_loss_mean_se=start.overall_se,
        observables=observables,
        metrics=settings.metric_names,
        loss_dims=loss_dims,
        record=settings.record,
        loss_dtype=settings.loss_dtype,
    )


def _measure(spec: RunSpec, name: str) -> ObservableLayout:
    observable = spec.observables[name]
    losses, finite = spec.evaluate(observable.rows, observable.sequence_id)
    if not finite:
        raise InvalidInputError(f"the loss of observable {name!r} at the starting weights is not finite.")
    tokens = observable.rows.token_ids
    where = observable.rows.locate(observable.sequence_id)
    return ObservableLayout(
        init_loss=losses.float().cpu().numpy(),
        sequence_id=observable.sequence_id,
        token_ids=None if tokens is None else tokens.cpu()[where].numpy(),
    )


def _read_observable(root: zarr.Group, name: str) -> ObservableLayout:
    group = f"{schema.OBSERVABLES}/{name}"
    return ObservableLayout(
        init_loss=_read(root, f"{group}/init_loss"),
        sequence_id=_read(root, f"{group}/sequence_id"),
        token_ids=_read(root, f"{group}/token_ids") if f"{group}/token_ids" in root else None,
    )


def _read(root: zarr.Group, path: str) -> np.ndarray:
    array: Any = root[path]
    return np.asarray(array[...])
