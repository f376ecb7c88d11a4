"""A run and its null: the same chains at ``n_beta`` zero, where only localization acts, as a run of its own below it."""

from __future__ import annotations

from dataclasses import replace

import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp.sampling import driver
from devinterp.sampling.estimate import DryRun, estimate
from devinterp.sampling.options import RunOptions
from devinterp.sampling.spec import RunSpec
from devinterp.schema import NULL
from devinterp.store.location import below
from devinterp.store.run_store import RunStore


def run_both(
    spec: RunSpec, options: RunOptions, tell_diverged: driver.TellDiverged = driver.warn_of_diverged
) -> xr.DataTree:
    """Sample a run and its null.

    Parameters
    ----------
    spec : RunSpec
        The run.
    options : RunOptions
        Where and how.
    tell_diverged : callable, optional
        What to do about chains that diverged, given the store of each of the two. Default: warn.

    Returns
    -------
    xarray.DataTree
        The run, with the other in the group ``null``.

    Raises
    ------
    InvalidInputError
        If ``n_beta`` is zero already, or nothing keeps chains near w0 when it is; nothing has been sampled then.
    """
    null = _null_of(spec)
    if options.output_path is None:
        tree = driver.run(spec, options, tell_diverged)
        tree[NULL] = driver.run(null, options, tell_diverged)
        return tree
    place = below(options.output_path, NULL)  # before anything is sampled: not every store can hold a second one
    driver.run(spec, options, tell_diverged)
    driver.run(null, replace(options, output_path=place), tell_diverged)
    store = RunStore.at(options.output_path, storage_options=options.storage_options)
    with store.lock():
        store.consolidate()
    return store.open_tree()


def estimate_both(spec: RunSpec, options: RunOptions) -> DryRun:
    """Return what a run and its null would cost; parameters and errors as of `run_both`."""
    own, null = (estimate(each, mode=options.chains, paired=options.paired) for each in (spec, _null_of(spec)))
    arrays = {**own.arrays, **{f"{NULL}/{path}": size for path, size in null.arrays.items()}}
    return DryRun(
        arrays, own.gradients + null.gradients, own.evaluations + null.evaluations, own.seconds + null.seconds
    )


def _null_of(spec: RunSpec) -> RunSpec:
    settings = spec.settings
    if settings.n_beta == 0:
        raise InvalidInputError("`null=True` samples the same chains at `n_beta` 0, which this run has already.")
    if not (settings.localization or settings.weight_decay or settings.bounding_box_size):
        raise InvalidInputError(
            "`null=True` samples at `n_beta` 0, where nothing would keep chains near w0: set `localization`, or a "
            "`bounding_box_size`."
        )
    return replace(spec, settings=replace(settings, n_beta=0.0))
