"""A run made ready for its susceptibilities: the tokens, draws, chains and reference that are used, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import xarray as xr

from devinterp import arguments, schema
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    choose_observable,
    drop_draws,
    noise_attrs,
    restriction_names,
    use_chains,
)
from devinterp.analyses.susceptibilities.estimates import Errors, Variants, variants
from devinterp.analyses.susceptibilities.moments import Moments
from devinterp.analyses.susceptibilities.task import InitialLoss, TaskSeries
from devinterp.errors import InvalidInputError
from devinterp.runs import only, settings

#: What a run must hold.
REQUIRES = ("observables/*/loss|observables/*/loss_mean", "trace/init_loss", *STATUS_REQUIRED)
Estimator = Literal["two_run", "single_run"]


@dataclass(frozen=True)
class PreparedRun:
    """A run, reduced to the means over draws from which susceptibilities follow.

    Parameters
    ----------
    run : xarray.DataTree
        The run with the chains and draws that are used.
    series : TaskSeries
        The loss on the sampling task.
    moments : dict of str to Moments
        By observable.
    reference : int or None
        Index of the run of all weights; None where each run is its own reference.
    attrs : dict
        The options, as results carry them.
    """

    run: xr.DataTree
    series: TaskSeries
    moments: dict[str, Moments]
    reference: int | None
    attrs: dict[str, Any]

    @classmethod
    def of(
        cls,
        tree: xr.DataTree,
        sampling_task: str | None,
        *,
        observable_names: Sequence[str] | None,
        include_sampling_task: bool,
        estimator: Estimator,
        full: str,
        initial_loss: InitialLoss,
        burnin: int | None,
        chains: Chains,
        needed_by: str,
    ) -> PreparedRun:
        """Return the only run of a tree, made ready; parameters and errors as of `compute_susceptibilities`."""
        run = only(tree, name=needed_by, requires=REQUIRES)
        task = choose_observable(run, sampling_task, argument="sampling_task", needed_by=needed_by)
        names = _chosen(run, task, observable_names, include_sampling_task, needed_by)
        if not names:
            raise InvalidInputError(
                f"`{needed_by}`: {task!r} is the only observable: sample with others, or pass include_sampling_task=True."
            )
        reference = _reference(run, estimator, full)
        run, chain_attrs = use_chains(run, chains, needed_by=needed_by)
        burnin = burnin_steps(run, burnin)
        run = drop_draws(run, burnin)
        series = TaskSeries.of(run, task, initial_loss)
        attrs = {
            "sampling_task": task,
            "estimator": estimator,
            "initial_loss": series.initial_loss,
            "burnin": burnin,
            **noise_attrs(run),
            **chain_attrs,
        }
        return cls(run, series, {name: Moments.of(run, name, series) for name in names}, reference, attrs)

    def variants(self, errors: Errors) -> Variants:
        """Return the susceptibilities of each observable's tokens in all variants from which errors follow."""
        return {
            name: variants(each, self.reference, errors, self.series.initial_loss_error)
            for name, each in self.moments.items()
        }


def _chosen(run: xr.DataTree, task: str, wanted: Sequence[str] | None, include_task: bool, needed_by: str) -> list[str]:
    """Return the names of the observables whose tokens are asked for."""
    names, include_task = sorted(schema.observable_names(run)), arguments.flag("include_sampling_task", include_task)
    if wanted is None:
        return [name for name in names if include_task or name != task]
    wanted = arguments.names("observable_names", wanted)
    chosen = {choose_observable(run, name, argument="observable_names", needed_by=needed_by) for name in wanted}
    return [name for name in names if name in chosen or (include_task and name == task)]


def _reference(run: xr.DataTree, estimator: str, full: str) -> int | None:
    """Return the index of the run of all weights, or None where each run is its own reference."""
    if estimator not in ("two_run", "single_run"):
        raise InvalidInputError(f"`estimator` (={estimator!r}) must be 'two_run' or 'single_run'.")
    names = restriction_names(run)
    others = settings(run).get("weight_restrictions") or names
    if estimator == "single_run" or (len(names) == 1 and (names[0] == full or full not in others)):
        return None
    if full not in names:
        raise InvalidInputError(
            f"estimator='two_run' compares with the run of all weights, `full` (={full!r}); the restrictions are {names}: name "
            "it, sample with weight_restrictions={'full': None, ...}, or pass estimator='single_run'."
        )
    return names.index(full)
