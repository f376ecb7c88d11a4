"""Run a prepared problem: chain after chain into a store, and open what was written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from devinterp import schema
from devinterp.errors import DivergenceWarning, InvalidInputError, StoreError, StoreMismatchError
from devinterp.sampling import identity, metrics
from devinterp.sampling.chain import run_chains
from devinterp.sampling.grouping import grouped
from devinterp.sampling.initial import InitialLoss, initial_loss
from devinterp.sampling.order import step_rows
from devinterp.sampling.problem import Problem
from devinterp.sampling.progress import display
from devinterp.store.create import create, is_empty
from devinterp.store.layout import ObservableLayout, RunLayout
from devinterp.store.location import StoreLike, describe, resolve
from devinterp.store.open import open as open_store
from devinterp.store.open import read_attrs, read_states
from devinterp.store.writer import TraceWriter

Key = tuple[int, int]


def run(
    problem: Problem,
    loss_dims: tuple[str, ...],
    *,
    output_path: StoreLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    chains: str = "auto",
) -> xr.DataTree:
    """Sample every chain of a problem that its store does not hold yet.

    Parameters
    ----------
    problem : Problem
        From `devinterp.sampling.prepare.prepare`.
    loss_dims : tuple of str
        Names of the dims of one sample's loss.
    output_path : str, path or zarr store, optional
        Where the run is written; None keeps it in memory.
    storage_options : mapping, optional
        For fsspec, when `output_path` is a URL.
    progress : bool or None, default: None
        Whether to show bars; None: in a terminal or a notebook.
    chains : {"auto", "sequential", "vectorized"}, default: "auto"
        Whether chains run one after the other or as one computation.

    Returns
    -------
    xarray.DataTree
        Lazy when `output_path` is given, else in memory.

    Raises
    ------
    StoreMismatchError
        If another run is at `output_path`; the message says what differs.
    StoreError
        If it cannot be written.
    """
    store = MemoryStore() if output_path is None else resolve(output_path, storage_options=storage_options)
    where = "memory" if output_path is None else describe(output_path)
    config, provenance = identity.config(problem, loss_dims), identity.provenance(problem)
    if is_empty(store):
        start = initial_loss(problem)
        attrs = {"config": json.dumps(config), "provenance": json.dumps(provenance)}
        create(store, layout(problem, loss_dims, start), attrs)
    else:
        check_same_run(store, where, config, provenance)
    pending = [key for key, state in read_states(store).items() if state not in (schema.FINISHED, schema.DIVERGED)]
    if pending:
        sample_chains(problem, zarr.open_group(store, mode="r+"), pending, progress=progress, chain_mode=chains)
    warn_of_diverged(store)
    return open_store(store) if output_path is not None else open_store(store, chunks=None).load()


def sample_chains(
    problem: Problem, root: zarr.Group, pending: list[Key], *, progress: bool | None, chain_mode: str
) -> None:
    """Sample chains of a run into its store, leaving the model as it was.

    A chain that diverges is recorded, and the others go on.
    """
    init_loss = float(np.nanmean(np.asarray(root[f"{schema.TRACE}/init_loss"][...])))  # type: ignore[index]
    with TraceWriter(root) as writer, display(progress, problem.settings, init_loss) as bars:
        for restriction, (name, masks) in enumerate(problem.restrictions.items()):
            chains = [chain for r, chain in pending if r == restriction]
            if not chains:
                continue
            with grouped(problem, name, masks, chains, mode=chain_mode) as groups:
                for group, members in groups:
                    draws = run_chains(group, restriction=restriction, chains=members)
                    labels = {chain: _label(problem, name, chain) for chain in members}
                    for draw in bars.track(draws, labels=labels):
                        writer.append(draw)


def layout(problem: Problem, loss_dims: tuple[str, ...], start: InitialLoss) -> RunLayout:
    """Return what the store of a problem will hold."""
    settings = problem.settings
    chains = range(settings.num_chains)
    draws = np.arange(settings.num_draws) * settings.num_steps_bw_draws + settings.num_burnin_steps
    return RunLayout(
        restrictions={name: masks.num_elements for name, masks in problem.restrictions.items()},
        num_chains=settings.num_chains,
        num_steps=settings.num_steps,
        draw_steps=draws,
        sequence_id=np.stack([step_rows(settings, problem.num_rows, chain) for chain in chains]),
        init_loss=start.mean,
        init_loss_se=start.se,
        init_loss_mean_se=start.mean_se,
        observables={name: _observable_layout(problem, name) for name in problem.observables},
        metrics=metrics.NAMES if settings.save_metrics else (),
        loss_dims=loss_dims,
    )


def _observable_layout(problem: Problem, name: str) -> ObservableLayout:
    observable = problem.observables[name]
    losses, finite = problem.evaluate(observable.rows, observable.sequence_id)
    if not finite:
        raise InvalidInputError(f"the loss of observable {name!r} at the starting weights is not finite.")
    tokens = observable.rows.token_ids
    where = observable.rows.locate(observable.sequence_id)
    return ObservableLayout(
        init_loss=losses.float().cpu().numpy(),
        sequence_id=observable.sequence_id,
        token_ids=None if tokens is None else tokens.cpu()[where].numpy(),
    )


def check_same_run(store: Store, where: str, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Raise unless a store holds this very run."""
    attrs = read_attrs(store)
    if "config" not in attrs or "provenance" not in attrs:
        raise StoreError(f"{where} is not empty and holds no run of this package: choose another path.")
    stored = {"config": json.loads(attrs["config"]), **json.loads(attrs["provenance"])["fingerprints"]}
    wanted = {"config": json.loads(json.dumps(config)), **provenance["fingerprints"]}
    lines = identity.differences(stored, wanted)
    if lines:
        raise StoreMismatchError(
            f"{where} holds another run; choose another path or delete it. What differs:\n  " + "\n  ".join(lines)
        )


def warn_of_diverged(store: Store) -> None:
    """Warn of every chain that diverged, so that nobody learns it from an analysis first."""
    states = read_states(store)
    errors = zarr.open_array(store, path=f"{schema.STATUS}/error", mode="r")[...]
    lines = [
        f"restriction {r}, chain {c}: {np.asarray(errors)[r, c]}"
        for (r, c), state in states.items()
        if state == schema.DIVERGED
    ]
    if lines:
        warnings.warn(
            f"{len(lines)} of {len(states)} chains diverged; analyses refuse them unless told `chains='finished'`:\n  "
            + "\n  ".join(lines),
            DivergenceWarning,
            stacklevel=4,
        )


def _label(problem: Problem, name: str, chain: int) -> str:
    label = f"chain {chain}"
    return label if len(problem.restrictions) == 1 else f"{name} {label}"
