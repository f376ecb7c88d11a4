"""What is calibrated on: checkpoints, data, loss and restrictions, and the only two ways in which they are sampled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from torch import nn

from devinterp.errors import DivergenceWarning, InvalidInputError
from devinterp.models.parameter_check import trainable_names
from devinterp.sampling.losses.identity import loss_identity
from devinterp.sampling.losses.loss import LossFunction
from devinterp.sampling.model_guard import sheltered
from devinterp.sampling.prepare import check_model, choose_device, name_restrictions, prepare
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import RunSpec
from devinterp.slt.sampling import sample
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike


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
    def spec(self, checkpoint: str, settings: Settings) -> Iterator[RunSpec]:
        """Give the checked run of a checkpoint with some settings; the model comes back unchanged when the block ends."""
        model = self.models[checkpoint]
        inner = check_model(model)
        device = choose_device(inner, self.device)
        trainable = trainable_names(inner)
        with (
            sheltered(inner, device, seed=settings.init_seed),
            loss_identity(self.loss_fn, self.loss_id) as identity,
        ):
            yield prepare(
                inner,
                self.dataset,
                self.observables,
                settings,
                restrictions=name_restrictions(model, self.param_masks, self.weight_restrictions, trainable),
                loss_fn=self.loss_fn,
                loss_dims=self.loss_dims,
                loss_identity=identity,
                adapter=self.adapter,
                device=device,
            )

    def run(self, checkpoint: str, settings: Mapping[str, Any], place: StoreLike, *, null: bool) -> xr.DataTree:
        """Sample a checkpoint into a store of its own, a group of the calibration's; what the store holds is not sampled again.

        Parameters
        ----------
        checkpoint : str
            Its label.
        settings : mapping
            Arguments of `devinterp.sample`.
        place : str, path or zarr.abc.store.Store
            Where the run is written.
        null : bool
            Whether to sample the same chains at ``n_beta`` zero, too.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # one of the things that are looked for
            tree = sample(
                self.models[checkpoint],
                self.dataset,
                self.observables,
                param_masks=self.param_masks,
                weight_restrictions=self.weight_restrictions,
                loss_fn=self.loss_fn,
                loss_dims=self.loss_dims,
                loss_id=self.loss_id,
                adapter=self.adapter,
                device=self.device,
                progress=self.progress,
                keep_state=True,
                null=null,
                output_path=place,
                **settings,
            )
        assert isinstance(tree, xr.DataTree)
        return tree


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
