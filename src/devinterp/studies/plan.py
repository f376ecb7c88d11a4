"""The runs of a study, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from devinterp.errors import InvalidInputError, StoreMismatchError
from devinterp.sampling.options import RunOptions
from devinterp.store.reading.study_table import StudyTable
from devinterp.store.study_store import StudyStore
from devinterp.studies.arguments import arguments_of, check_axes
from devinterp.studies.axes import Over, Point, axes_of, check_distinct, check_names_of_runs, points_of, run_name
from devinterp.studies.model_sources import ModelSource, model_source


@final
@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Parameters
    ----------
    name : str
        Of its group in the store.
    point : Point
        What it is about.
    arguments : mapping
        Of `devinterp.slt.sampling.sample`, but for the model and the options.
    """

    name: str
    point: Point
    arguments: Mapping[str, Any]


@final
@dataclass(frozen=True)
class StudyPlan:
    """All runs of a study, what varies, and how it is carried out.

    Parameters
    ----------
    source : ModelSource
        Where models come from.
    dims : mapping of str to list of str
        Dimensions of joined results, and the names of what varies along each.
    runs : tuple of PlannedRun
        In the order of the axes.
    how : RunOptions
        Where and how.
    """

    source: ModelSource
    dims: Mapping[str, list[str]]
    runs: tuple[PlannedRun, ...]
    how: RunOptions

    def table(self, stored: StudyTable | None) -> StudyTable:
        """Return the table of the study, with the runs that its store has already.

        Raises
        ------
        StoreMismatchError
            If something else varies in the stored study.
        """
        ours = {run.name: dict(run.point.labels) for run in self.runs}
        if stored is None:
            return StudyTable(self.dims, ours)
        if dict(stored.dims) != dict(self.dims):
            raise StoreMismatchError(
                f"the store holds a study over {_named(stored.dims)}, and this one is over {_named(self.dims)}: choose another "
                "path. Values can be added along each, but not something else that varies."
            )
        return StudyTable(self.dims, {**stored.runs, **ours})


def make_plan(
    models: Any,
    over: Over | None,
    base: Mapping[str, Any],
    how: RunOptions,
    *,
    architecture: Any = None,
    same_noise: bool = True,
    function_identity: str = "",
) -> StudyPlan:
    """Return the runs of a study.

    Parameters
    ----------
    models, over, architecture, same_noise : object
        As for `devinterp.study`.
    base : mapping
        Arguments of `sample` that are the same for all runs.
    how : RunOptions
        Where and how.
    function_identity : str
        What identifies `models`, if it is a function.

    Raises
    ------
    InvalidInputError
        If anything given cannot be used, in any of the runs.
    """
    axes = axes_of(over)
    source = model_source(models, [name for axis in axes for name in axis.names], architecture, function_identity)
    if source.axis is not None:
        axes = [source.axis, *axes]
        check_distinct(axes)
    check_axes(axes, source.names, base)
    runs = []
    for point in points_of(axes):
        try:
            arguments = arguments_of(point, source.names, base, same_noise=same_noise)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{error} (in the run {run_name(point.labels)!r})" if axes else str(error)
            ) from None
        runs.append(PlannedRun(run_name(point.labels), point, arguments))
    check_names_of_runs([run.name for run in runs])
    return StudyPlan(source, {axis.dim: list(axis.names) for axis in axes}, tuple(runs), how)


def in_order(plan: StudyPlan, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return runs in the order in which they are made: those of one model after each other, else as they are given."""
    first: dict[Any, int] = {}
    for number, run in enumerate(runs):
        first.setdefault(plan.source.key(run.point), number)
    return [
        run for _, run in sorted(enumerate(runs), key=lambda each: (first[plan.source.key(each[1].point)], each[0]))
    ]


def store_of(how: RunOptions) -> StudyStore | None:
    """Return the store of a study; None where it is only wanted in memory."""
    if how.output_path is None:
        if how.workers or how.client is not None:
            raise InvalidInputError("a study in other processes needs an `output_path` that all of them can write to.")
        return None
    return StudyStore.at(how.output_path, storage_options=how.storage_options)


def _named(dims: Mapping[str, list[str]]) -> str:
    return ", ".join(dims) or "nothing"
