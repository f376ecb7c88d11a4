r"""Norms of the weights of each module, and how far they are from the initial ones.

For the parameters :math:`w_m` that a module m has itself (not those of the modules in it) these are :math:`|w_m|` and
:math:`|w_m - w_{0,m}|`. They cost one pass over the weights for each draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

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
    labels = np.array(list(modules), dtype=object)
    along = ("module",)
    return Recording(
        WeightNorms(owner, len(modules)), dims={"norm": along, "distance": along}, coords={"module": (along, labels)}
    )


@final
@dataclass(frozen=True)
class WeightNorms:
    """Computes the norms of modules.

    Parameters
    ----------
    owner : dict of str to int
        By name of a parameter, the place of its module.
    num_modules : int
        Number of modules.
    """

    owner: Mapping[str, int]
    num_modules: int

    def __call__(self, snapshot: Snapshot) -> Mapping[str, Tensor]:
        """Return ``norm`` and ``distance``, float64 ``(module,)``."""
        import torch

        weights = dict(snapshot.model.named_parameters(remove_duplicate=False))
        norm = torch.zeros(self.num_modules, dtype=torch.float64, device=next(iter(weights.values())).device)
        distance = torch.zeros_like(norm)
        for name, place in self.owner.items():
            norm[place] += weights[name].double().square().sum()
        for name, moved in snapshot.displacement():
            distance[self.owner[name]] += moved.double().square().sum()
        return {"norm": norm.sqrt(), "distance": distance.sqrt()}


@hookimpl
def devinterp_recorders() -> list[Recorder]:
    """Register the recorder of norms."""
    return [Recorder(name="weight_norms", build=build)]
