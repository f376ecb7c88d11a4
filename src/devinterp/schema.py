"""The names in a tree: groups, variables, dimensions, and what their presence means (schema version 2).

This is the only place that spells them. ``docs/schema.md`` explains them to users.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError

#: Version 2 adds the losses at w0 of a run's rows; everything of version 1 is where it was.
SCHEMA_VERSION, READABLE_VERSIONS = 2, (1, 2)

RESTRICTION, CHAIN, STEP, DRAW = "restriction", "chain", "step", "draw"
BATCH, SEQUENCE, TOKEN, POSITION, ROW = "batch", "sequence", "token", "position", "row"

TRACE, OBSERVABLES, METRICS, STATUS = "trace", "observables", "metrics", "status"
#: What recorders gave: ``<variable>`` at draws and ``init_<variable>`` at the initial weights, in a group for each.
RECORDINGS, AT_START = "recordings", "init_"
#: A whole number that is missing among those of a recorder.
NO_INTEGER = -(2**63)
#: Attribute of the root of a study: a table of its runs.
STUDY = "study"
#: The same chains at ``n_beta`` zero, a complete run below a run.
NULL = "null"

#: Variables of runs that keep moments instead of losses.
MEAN_LOSS, LOSS_MEAN, LOSS_COMOMENT, TASK = "mean_loss", "loss_mean", "loss_comoment", "task"

#: Dims of losses other than those of a single sample, which are `position` or what ``loss_dims=`` names.
OUTER_DIMS = (RESTRICTION, CHAIN, STEP, DRAW, SEQUENCE, BATCH, TASK)

#: Metrics of every step that ``save_metrics=True`` records: norms of the parts of a step, the dot products between them, and
#: the distance from the initial weights before it.
STEP_METRICS = (
    "distance",
    "unscaled_grad",
    "scaled_grad",
    "localization",
    "weight_decay",
    "noise",
    "dot_grad_prior",
    "dot_grad_noise",
    "dot_prior_noise",
)
#: A metric that is recorded only when named, because it costs a second gradient.
MALA_ACCEPTANCE = "mala_acceptance"

#: Metrics of draws (`devinterp.sampling.chains.virial`): at the weights before the draw's step the virial, its part of the
#: gradient, the squared distance from w0, and in a bounding box what the virial is compared with; at the draw itself the
#: squared distance.
VIRIAL, VIRIAL_GRADIENT, VIRIAL_SQUARE, VIRIAL_VOLUME = "virial", "virial_gradient", "virial_square", "virial_volume"
DRAW_SQUARE = "draw_square"
#: The same for each parameter tensor, along a dimension of their names; sizes are numbers of sampled weights.
PARAMETER, PARAMETER_SIZE = "parameter", "parameter_size"
PARAMETER_VIRIAL, PARAMETER_VOLUME = "parameter_virial", "parameter_volume"
#: The same along the directions in which the loss at w0 curves most, and the second derivatives along them.
DIRECTION, DIRECTION_VIRIAL, DIRECTION_CURVATURE = "direction", "direction_virial", "direction_curvature"

#: States of a chain, in ``status/state``.
PENDING, RUNNING, FINISHED, DIVERGED, INTERRUPTED = "pending", "running", "finished", "diverged", "interrupted"
STATES = (PENDING, RUNNING, FINISHED, DIVERGED, INTERRUPTED)

#: Dimensions of every variable, by its path with ``*`` for a name the user chose.
DIMS: dict[str, tuple[str, ...]] = {
    "draw_step": (DRAW,),
    "num_moving": (RESTRICTION,),
    "trace/loss": (RESTRICTION, CHAIN, STEP, BATCH, POSITION),
    "trace/sequence_id": (CHAIN, STEP, BATCH),
    "trace/init_loss": (CHAIN, POSITION),
    "trace/init_loss_se": (CHAIN, POSITION),
    "trace/init_loss_mean": (CHAIN,),
    "trace/init_loss_mean_se": (CHAIN,),
    "trace/row_id": (ROW,),
    "trace/row_loss": (ROW, POSITION),
    "trace/row_count": (ROW,),
    "trace/w0_loss": (CHAIN, POSITION),
    "trace/w0_loss_se": (CHAIN, POSITION),
    "trace/w0_loss_mean": (CHAIN,),
    "trace/w0_loss_mean_se": (CHAIN,),
    "trace/mean_loss": (RESTRICTION, CHAIN, STEP),
    "observables/*/mean_loss": (RESTRICTION, CHAIN, DRAW),
    "observables/*/loss_mean": (RESTRICTION, CHAIN, SEQUENCE, POSITION),
    "observables/*/loss_comoment": (RESTRICTION, CHAIN, TASK, SEQUENCE, POSITION),
    "observables/*/loss": (RESTRICTION, CHAIN, DRAW, SEQUENCE, POSITION),
    "observables/*/init_loss": (SEQUENCE, POSITION),
    "observables/*/token_ids": (SEQUENCE, TOKEN),
    "observables/*/sequence_id": (SEQUENCE,),
    **{
        f"metrics/{name}": (RESTRICTION, CHAIN, DRAW)
        for name in (VIRIAL, VIRIAL_GRADIENT, VIRIAL_SQUARE, VIRIAL_VOLUME, DRAW_SQUARE)
    },
    **{f"metrics/{name}": (RESTRICTION, CHAIN, DRAW, PARAMETER) for name in (PARAMETER_VIRIAL, PARAMETER_VOLUME)},
    f"metrics/{PARAMETER}": (PARAMETER,),
    f"metrics/{PARAMETER_SIZE}": (RESTRICTION, PARAMETER),
    f"metrics/{DIRECTION_VIRIAL}": (RESTRICTION, CHAIN, DRAW, DIRECTION),
    f"metrics/{DIRECTION}": (DIRECTION,),
    f"metrics/{DIRECTION_CURVATURE}": (RESTRICTION, DIRECTION),
    "metrics/*": (RESTRICTION, CHAIN, STEP),
    f"{RECORDINGS}/*/{AT_START}*": (),  # beside dims of the recorder's own
    f"{RECORDINGS}/*/*": (RESTRICTION, CHAIN, DRAW),  # beside the same
    "status/steps_done": (RESTRICTION, CHAIN),
    "status/state": (RESTRICTION, CHAIN),
    "status/error": (RESTRICTION, CHAIN),
}


def is_run(tree: xr.DataTree) -> bool:
    """Say whether this very node is a sampling run."""
    return is_run_attrs(tree.attrs)


def is_run_attrs(attrs: Mapping[Any, Any]) -> bool:
    """Say whether attributes are those of a sampling run's root."""
    return "schema_version" in attrs


def runs(tree: xr.DataTree) -> dict[str, xr.DataTree]:
    """Return the sampling runs at or below a node, by their path relative to it (``"."`` for the node itself)."""
    if is_run(tree):
        return {".": tree}
    below: dict[str, xr.DataTree] = {}
    for name, child in tree.children.items():
        for path, run in runs(child).items():
            below[name if path == "." else f"{name}/{path}"] = run
    return below


def variable_paths(tree: xr.DataTree) -> Iterator[str]:
    """Yield the path of every variable of a run, relative to it."""
    for group, node in groups_of(tree):
        for name in node.to_dataset(inherit=False).variables:
            yield f"{group}/{name}" if group else str(name)


def groups_of(tree: xr.DataTree) -> Iterator[tuple[str, xr.DataTree]]:
    """Yield the path of every group of a run, relative to it (``""`` for the run itself), and the group."""
    root = tree.path.rstrip("/")
    for node in tree.subtree:
        yield node.path[len(root) :].strip("/"), node


def missing(tree: xr.DataTree, requires: Iterable[str]) -> list[str]:
    """Return those of the required paths that a run lacks; ``*`` stands for any one group or variable, ``a|b`` for either."""
    paths = list(variable_paths(tree))
    return [pattern for pattern in requires if not any(_matches(path, pattern) for path in paths)]


def in_required_groups(tree: xr.DataTree, requires: Iterable[str]) -> list[xr.Variable]:
    """Return the variables of the groups of a run in which the required paths lie."""
    groups = {each.strip("/").rpartition("/")[0] for pattern in requires for each in pattern.split("|")}
    variables: list[xr.Variable] = []
    for group, node in groups_of(tree):
        if any(_matches(group, wanted) for wanted in groups):
            variables += node.to_dataset(inherit=False).variables.values()
    return variables


@lru_cache(maxsize=2048)
def _matches(path: str, pattern: str) -> bool:
    parts = path.split("/")
    return any(
        len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
        for wanted in (each.strip("/").split("/") for each in pattern.split("|"))
    )


#: What to do about a missing group, by its first part.
_ADVICE = {
    OBSERVABLES: "sample with `observables=` (and record='token')",
    METRICS: "sample with `save_metrics=True`",
    RECORDINGS: "sample with `recorders=`",
    TRACE: "sample with `devinterp.sample` or open a store written by it",
}


def _advice(path: str) -> str | None:
    group, _, name = path.partition("/")
    if group == RECORDINGS and "*" not in (recorder := name.partition("/")[0]):
        return f"sample with `recorders=[{recorder!r}]`"
    if group == METRICS and name == MALA_ACCEPTANCE:
        return f"sample with `save_metrics=[{name!r}]`"
    if group == METRICS and name in (DIRECTION_VIRIAL, DIRECTION_CURVATURE):
        return "sample with `curvature_directions=3`"
    if path in DIMS and group == METRICS:
        return "sample with `virial=True`, the default"
    return _ADVICE.get(group)


def check(tree: xr.DataTree, requires: Iterable[str], *, needed_by: str) -> None:
    """Raise unless a run holds every required path.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    requires : iterable of str
        Paths such as ``"trace/loss"`` or ``"observables/*/loss"``.
    needed_by : str
        Name of the analysis, for the message.

    Raises
    ------
    MissingDataError
        If a path is missing; the message names it and says how to get it.
    """
    absent = missing(tree, requires)
    if not absent:
        return
    names = ", ".join(f"`{path}`" for path in absent)
    advice = dict.fromkeys(each for each in map(_advice, absent) if each)
    hint = f": {'; '.join(advice)}" if advice else ""
    raise MissingDataError(f"`{needed_by}` needs {names}; this tree has none{hint}.")


def observable_names(tree: xr.DataTree) -> list[str]:
    """Return the names of a run's observables, in the order they were given."""
    if OBSERVABLES not in tree.children:
        return []
    present = list(tree[OBSERVABLES].children)
    order = {name: n for n, name in enumerate(tree[OBSERVABLES].attrs.get("names", ()))}
    return sorted(present, key=lambda name: order.get(name, len(order)))


def flat_name(name: str) -> str:
    """Return the name that DevInterp 2 gives an observable: what is no letter, digit or underscore becomes an underscore."""
    return re.sub(r"\W", "_", name)


def observable_called(given: str, names: Sequence[str]) -> str | None:
    """Return which of the observables is meant by a name, which may be in DevInterp 2's form; None where none is."""
    if given in names:
        return given
    short = given.removeprefix("loss_")
    return next((name for name in names if short in (name, flat_name(name))), None)


def check_names(names: Iterable[str], *, kind: str) -> None:
    """Raise unless the names can be groups of a store side by side, on every file system.

    Dots, spaces and Unicode are welcome. Slashes and control characters are refused, and so are two names that a
    case-insensitive or Unicode-normalising file system would take for one.

    Raises
    ------
    InvalidInputError
        Naming the offending name, or the two that collide.
    """
    seen: dict[str, str] = {}
    for name in names:
        bad = (
            not isinstance(name, str)
            or name.strip() != name
            or name in ("", ".", "..", "zarr.json")
            or name.startswith("__")
            or any(c in "/\\:" or unicodedata.category(c) in ("Cc", "Cs") for c in name)
            or len(name.encode()) > 200
        )
        if bad:
            raise InvalidInputError(
                f"{kind} name {name!r} cannot name a group of the store: use 1 to 200 bytes without '/', '\\', ':' or control "
                "characters, not starting with '__', and without spaces at either end."
            )
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise InvalidInputError(
                f"{kind} names {seen[key]!r} and {name!r} would be one on some file systems: rename one."
            )
        seen[key] = name
