"""The arrays that the store of a run will hold, with the data that are known before it is sampled."""

from __future__ import annotations

import numpy as np

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.chains.initial_loss import InitialLoss, initial_loss
from devinterp.sampling.run_store.compare import Extension
from devinterp.sampling.spec import RunSpec
from devinterp.store.arrays.layout import ObservableLayout, RunLayout
from devinterp.store.run_store import RunStore

_INITIAL = ("init_loss", "init_loss_se", "init_loss_mean", "init_loss_mean_se")


def layout_of(spec: RunSpec, start: InitialLoss | None = None) -> RunLayout:
    """Return the layout of a new store, measuring the losses at w0.

    Parameters
    ----------
    spec : RunSpec
        The run.
    start : InitialLoss, optional
        The loss before the first step, where it is known already.

    Raises
    ------
    InvalidInputError
        If a loss at w0 is not finite.
    """
    start = initial_loss(spec) if start is None else start
    observables = {name: _measure(spec, name) for name in spec.observables}
    return _layout(spec, start, observables)


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
        start = InitialLoss(*(store.read_array(f"{schema.TRACE}/{name}") for name in _INITIAL))
    return _layout(spec, start, observables)


def _layout(spec: RunSpec, start: InitialLoss, observables: dict[str, ObservableLayout]) -> RunLayout:
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
    )


def _measure(spec: RunSpec, name: str) -> ObservableLayout:
    observable = spec.observables[name]
    losses, finite = spec.evaluate(observable.rows, observable.sequence_id)
    if not finite:
        raise InvalidInputError(f"the loss of observable {name!r} at the starting weights is not finite.")
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
