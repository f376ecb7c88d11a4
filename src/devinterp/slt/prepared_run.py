"""The arguments of `devinterp.slt.sampling.sample`, turned into a checked run, and that run carried out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.models.parameter_check import trainable_names
from devinterp.sampling import driver, null_run
from devinterp.sampling.driver import TellDiverged, warn_of_diverged
from devinterp.sampling.estimate import DryRun, estimate
from devinterp.sampling.losses.identity import loss_identity
from devinterp.sampling.model_guard import sheltered
from devinterp.sampling.options import RunOptions
from devinterp.sampling.prepare import check_model, choose_device, name_restrictions, prepare
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import RunSpec

#: Arguments that say which kernel and with which options, in the order of `kernel_options`.
_KERNEL = ("sampling_method", "sampling_method_kwargs", "rmsprop_eps", "rmsprop_alpha")


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings among all arguments of `devinterp.slt.sampling.sample`, by their names.

    Raises
    ------
    InvalidInputError
        If one is out of range.
    """
    options = kernel_options(*(given[name] for name in _KERNEL))
    return Settings.of(given, options, arguments.number("llc_weight_decay", given["llc_weight_decay"]))


@contextmanager
def prepared_run(given: Mapping[str, Any]) -> Iterator[tuple[RunSpec, RunOptions]]:
    """Give a checked run, and where and how to carry it out; when the block ends the model is as it was before.

    Parameters
    ----------
    given : mapping
        Every argument of `devinterp.slt.sampling.sample`, by its name.

    Raises
    ------
    InvalidInputError
        If anything given cannot be used.
    """
    settings, how = settings_of(given), RunOptions.merged(given["options"], given)
    model, loss_fn = given["model"], given["loss_fn"]
    inner = check_model(model)
    device = choose_device(inner, given["device"])
    trainable = trainable_names(inner)
    with sheltered(inner, device, seed=settings.init_seed), loss_identity(loss_fn, given["loss_id"]) as identity:
        spec = prepare(
            inner,
            given["dataset"],
            given["observables"],
            settings,
            restrictions=name_restrictions(model, given["param_masks"], given["weight_restrictions"], trainable),
            loss_fn=loss_fn,
            loss_dims=given["loss_dims"],
            loss_identity=identity,
            adapter=given["adapter"],
            device=device,
            compile_backend=how.compile_backend,
            recorders=given["recorders"],
        )
        if how.curvature_directions and spec.settings.bounding_box_size is not None:
            raise InvalidInputError(
                f"`curvature_directions` (={how.curvature_directions}): in a bounding box there is no temperature along a "
                "direction that is the same for every loss. Leave out one of the two."
            )
        yield replace(spec, virial=how.virial, num_directions=how.curvature_directions), how


def carry_out(
    spec: RunSpec, how: RunOptions, *, tell_diverged: TellDiverged = warn_of_diverged
) -> xr.DataTree | DryRun:
    """Sample a run, with its null where that is wanted, or say what it would cost.

    Parameters
    ----------
    spec : RunSpec
        The run, from `prepared_run`.
    how : RunOptions
        Where and how.
    tell_diverged : callable, optional
        What to do about chains that diverged, given the store of each run when it has ended. Default: warn.
    """
    if how.null:
        return null_run.estimate_both(spec, how) if how.dry_run else null_run.run_both(spec, how, tell_diverged)
    return estimate(spec, mode=how.chains, paired=how.paired) if how.dry_run else driver.run(spec, how, tell_diverged)


def kernel_options(
    sampling_method: str, options: Mapping[str, Any] | None, rmsprop_eps: float | None, rmsprop_alpha: float | None
) -> dict[str, Any]:
    """Return the options of a kernel, from either way v2 has of giving them.

    Raises
    ------
    InvalidInputError
        If an RMSprop option is given to another kernel, or one is given in both ways.
    """
    merged = arguments.mapping("sampling_method_kwargs", options)
    for name, value in (("eps", rmsprop_eps), ("alpha", rmsprop_alpha)):
        if value is None:
            continue
        if sampling_method != "rmsprop_sgld":
            raise InvalidInputError(
                f"`rmsprop_{name}` can only be set when sampling_method='rmsprop_sgld'; got {sampling_method!r}."
            )
        given = [key for key in (name, f"rmsprop_{name}") if key in merged]
        if given:
            raise InvalidInputError(
                f"rmsprop_{name} (={value}) and sampling_method_kwargs[{given[0]!r}] (={merged[given[0]]}) are both set; "
                "specify only one."
            )
        merged[name] = value
    return merged
