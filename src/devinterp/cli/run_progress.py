"""The progress of a run in ``devinterp info``: steps done, the process that writes it, and how to finish it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import xarray as xr
from rich.markup import escape

from devinterp import schema


def progress(store: str, run: xr.DataTree) -> Iterator[str]:
    """Yield lines that say how many steps of a run are done, how fast, which process writes it, and how to finish it.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    run : xarray.DataTree
        The run.

    Yields
    ------
    str
        One line of the report.
    """
    from devinterp.store.location import resolve
    from devinterp.store.lock import holder

    needed = [f"{schema.STATUS}/state", f"{schema.STATUS}/steps_done", f"{schema.TRACE}/{schema.STEP}"]
    if schema.missing(run, needed):
        return
    owner = holder(resolve(store, read_only=True))
    states = np.asarray(run[f"{schema.STATUS}/state"]).astype(object)
    done = np.asarray(run[f"{schema.STATUS}/steps_done"]).astype(int)
    total = run[f"{schema.TRACE}/{schema.STEP}"].size
    ended = (states == schema.FINISHED) | (states == schema.DIVERGED)
    if owner is not None and not owner.is_dead:
        done = _with_heartbeat(done, owner.progress.get("steps"))
    remaining = int(np.where(ended, 0, total - done).sum())
    all_steps = total * states.size
    yield f"{all_steps - remaining:,} of {all_steps:,} steps ({100 * (1 - remaining / max(1, all_steps)):.3g} %)"
    if owner is not None and not owner.is_dead:
        rate = owner.progress.get("rate")
        pace = (
            f", {rate:.3g} steps/s, about {_duration(remaining / rate)} left"
            if isinstance(rate, float) and rate > 0
            else ""
        )
        yield f"[yellow]at work:[/] {escape(str(owner))}{pace}"
    elif remaining:
        if owner is not None:
            yield f"[red]dead:[/] {escape(str(owner))} ended without a word; what it saved is intact"
        missing = int((~ended).sum())
        yield f"[yellow]incomplete:[/] {missing} of {states.size} chains are not at their end; {how_to_go_on(store, run)}"
    elif (states == schema.DIVERGED).any():
        yield f"[red]{int((states == schema.DIVERGED).sum())} of {states.size} chains diverged[/]; the others are complete"
    else:
        yield "[green]complete[/]"


def _with_heartbeat(done: np.ndarray, steps: object) -> np.ndarray:
    """Return the steps done, counting those that the writing process reports and has not stored yet."""
    done = done.copy()
    for name, step in steps.items() if isinstance(steps, dict) else ():
        parts = str(name).split("/")
        if len(parts) == 2 and all(part.isdigit() for part in parts) and isinstance(step, int):
            key = (int(parts[0]), int(parts[1]))
            if all(n < size for n, size in zip(key, done.shape, strict=True)):
                done[key] = max(done[key], step)
    return done


def how_to_go_on(store: str, run: xr.DataTree) -> str:
    """Return what to do about an unfinished run, by who began it."""
    try:
        notes = json.loads(run.attrs["provenance"]).get("notes", {})
    except (KeyError, TypeError, ValueError, AttributeError):
        notes = {}
    if "devinterp sample" in notes:
        return f"go on with `devinterp resume {escape(store)}`"
    plan = notes.get("devinterp study")
    if isinstance(plan, dict):
        return f"go on with `devinterp study {escape(str(plan.get('path')))}`"
    if schema.STUDY in notes:
        return "call `study` with the same arguments again to go on"
    return "call `sample` with the same arguments again to go on"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
