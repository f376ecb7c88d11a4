r"""Norms of the weights of each module, and how far they are from the initial ones.

For the parameters :math:`w_m` that a module m has itself (not those of the modules in it) these are :math:`|w_m|` and
:math:`|w_m - w_{0,m}|`. They cost one pass over the weights for each draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from devinterp.hookspecs import hookimpl
from devinterp.types import RecordedRun, Recorder, Recording, Snapshot

if TYPE_CHECKING:
    from torch import Tensor


def build(run: RecordedRun) -> Recording:
    """Record the norm of each module's own weights, and of their displacement.

    Parameters
    ----------
    run : RecordedRun
        The run.

    Returns
    -------
    Recording
        ``norm(module)`` and ``distance(module)``, for modules that have parameters of their own, by name; the model itself is
        ``""``.
    """
    modules = {name: module for name, module in run.model.named_modules() if list(module.parameters(recurse=False))}
    owner = {
        f"{name}.{own}".lstrip("."): place
        for place, (name, module) in enumerate(modules.items())
        for own, _ in module.named_parameters(recurse=False)
    }

    def record(snapshot: Snapshot) -> Mapping[str, Tensor]:
        import torch

        weights = dict(snapshot.model.named_parameters(remove_duplicate=False))
        norm = torch.zeros(len(modules), dtype=torch.float64, device=next(iter(weights.values())).device)
        distance = torch.zeros_like(norm)
        for name, place in owner.items():
            norm[place] += weights[name].double().square().sum()
        for name, moved in snapshot.displacement():
            distance[owner[name]] += moved.double().square().sum()
        return {"norm": norm.sqrt(), "distance": distance.sqrt()}

    labels = np.array(list(modules), dtype=object)
    return Recording(
        record, dims={"norm": ("module",), "distance": ("module",)}, coords={"module": (("module",), labels)}
    )


@hookimpl
def devinterp_recorders() -> list[Recorder]:
    """Register the recorder of norms."""
    return [Recorder(name="weight_norms", build=build)]
