"""What is calibrated on: checkpoints, data, loss and restrictions, and the only two ways in which they are sampled."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from torch import nn

from devinterp.errors import DivergenceWarning, InvalidInputError
from devinterp.sampling.losses.loss import LossFunction
from devinterp.sampling.spec import RunSpec
from devinterp.slt.prepared_run import prepared_run
from devinterp.slt.sampling import sample
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike

#: Key of a run's notes that says what tells it apart from others of its study (`devinterp.study_labels`).
_NOTE = "study"


@dataclass(frozen=True)
class Subject:
    """Checkpoints, data, loss and restrictions; the names are those of `devinterp.calibrate`, which documents them."""

    models: Mapping[str, nn.Module]
    dataset: Any
    observables: Mapping[str, Any] | None = None
    param_masks: Any = None
    weight_restrictions: Mapping[str, Any] | Sequence[str] | None = None
    loss_fn: LossFunction | None = None
    loss_dims: Sequence[str] | None = None
    loss_id: str | None = None
    adapter: str | ModelAdapter | None = None
    device: str | torch.device | None = None
    progress: bool | None = None

    @contextmanager
    def spec(self, checkpoint: str, settings: Mapping[str, Any]) -> Iterator[RunSpec]:
        """Give the checked run of a checkpoint with some settings; the model comes back unchanged when the block ends.

        Parameters
        ----------
        checkpoint : str
            Its label.
        settings : mapping
            Arguments of `devinterp.sample`.
        """
        with prepared_run(self._arguments(checkpoint, settings)) as (spec, _):
            yield spec

    def run(
        self,
        checkpoint: str,
        settings: Mapping[str, Any],
        place: StoreLike,
        labels: Mapping[str, Any],
        dims: Mapping[str, list[str]],
        *,
        null: bool,
    ) -> xr.DataTree:
        """Sample a checkpoint into a group of the calibration's store; what that holds is not sampled again.

        Parameters
        ----------
        checkpoint : str
            Its label.
        settings : mapping
            Arguments of `devinterp.sample`.
        place : str, path or zarr.abc.store.Store
            Where the run is written.
        labels, dims : mapping
            What tells the run apart from others, and the dimensions along which results are joined.
        null : bool
            Whether to sample the same chains at ``n_beta`` zero, too.
        """
        where = {"output_path": place, "null": null, "keep_state": True, "progress": self.progress}
        notes = {_NOTE: {"labels": dict(labels), "dims": dict(dims)}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # one of the things that are looked for
            tree = sample(**self._arguments(checkpoint, {**settings, **where, "notes": notes}))
        assert isinstance(tree, xr.DataTree)
        return tree

    def _arguments(self, checkpoint: str, others: Mapping[str, Any]) -> dict[str, Any]:
        """Return every argument of `devinterp.sample`, by its name."""
        own = {
            "param_masks": self.param_masks,
            "weight_restrictions": self.weight_restrictions,
            "loss_fn": self.loss_fn,
            "loss_dims": self.loss_dims,
            "loss_id": self.loss_id,
            "adapter": self.adapter,
            "device": self.device,
        }
        bound = inspect.signature(sample).bind(self.models[checkpoint], self.dataset, self.observables, **own, **others)
        bound.apply_defaults()
        return dict(bound.arguments)


def as_models(model: Any) -> dict[str, nn.Module]:
    """Return checkpoints by label, the empty label for a single model.

    Raises
    ------
    InvalidInputError
        If there is none, or one is no module.
    """
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    if not models:
        raise InvalidInputError("`model` is an empty mapping: pass a model, or labels and models.")
    for label, each in models.items():
        if not isinstance(each, nn.Module):
            raise InvalidInputError(
                f"`model` must be a torch.nn.Module, or map labels to some; got {type(each).__name__}."
            )
        if isinstance(model, Mapping) and (not str(label) or "/" in str(label)):
            raise InvalidInputError(f"the label {label!r} of a checkpoint must be a name without '/'.")
    return {str(label): each for label, each in models.items()}
