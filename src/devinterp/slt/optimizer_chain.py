"""A chain that an optimizer of torch moves, and functions that are called on its way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.optim.sgmcmc import SGMCMC
from devinterp.sampling.chains.stepper import clip_gradients
from devinterp.sampling.settings import Settings

#: Kernels as optimizers, by the names under which DevInterp has them.
_BY_NAME: dict[str, Callable[..., SGMCMC]] = {
    "sgld": SGMCMC.sgld,
    "sgmcmc_sgld": SGMCMC.sgld,
    "rmsprop_sgld": SGMCMC.rmsprop_sgld,
    "sgnht": SGMCMC.sgnht,
}


def call_with(function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """Call a function with those of the known values that it has parameters for."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return function(**known)
    return function(**{p.name: known[p.name] for p in parameters if p.name in known})


class OptimizerChain:
    """A context in which the sampled parameters of a model are moved by an optimizer; they are put back at its end.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    masks : ParamMasks
        What is sampled.
    optimizer : str or callable
        Makes an optimizer of groups of parameters; or the name of a kernel.
    settings : Settings
        Of the chain.
    options : mapping
        Further options of the optimizer.
    seed : int or None
        Of the noise; None: torch's own generator draws it.
    chain : int
        Number of the chain.
    callbacks, step_callback : callables
        As in `devinterp.slt.sampler.sample_single_chain`.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: ParamMasks,
        optimizer: Any,
        settings: Settings,
        options: Mapping[str, Any],
        *,
        seed: int | None,
        chain: int = 0,
        callbacks: Sequence[Callable[..., Any]] = (),
        step_callback: Callable[..., Any] | None = None,
    ) -> None:
        self._model, self._chain, self._callbacks, self._on_step = model, chain, callbacks, step_callback
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._sampled = [parameters[name] for name in masks]
        self._seed, self._settings = seed, settings
        self._groups: list[dict[str, Any]] = [
            {"params": [p]} if mask.is_whole else {"params": [p], "mask": mask.to(p.device)}
            for p, mask in zip(self._sampled, masks.values(), strict=True)
        ]
        self._make, self._options = optimizer, dict(options)

    def __enter__(self) -> OptimizerChain:
        self._before = [(parameter, parameter.detach().clone()) for parameter in self._sampled]
        device = self._sampled[0].device
        self._generator = None if self._seed is None else torch.Generator(device).manual_seed(self._seed)
        for parameter in self._sampled:
            parameter.requires_grad_(True)
        self.optimizer = self._optimizer()
        if self._settings.init_noise:
            with torch.no_grad():
                for parameter, group in zip(self._sampled, self._groups, strict=True):
                    noise = torch.randn(parameter.shape, generator=self._generator, device=parameter.device)
                    noise = noise if group.get("mask") is None else noise * group["mask"]
                    parameter.add_(noise.to(parameter.dtype), alpha=self._settings.init_noise)
        return self

    def __exit__(self, *error: Any) -> None:
        with torch.no_grad():
            for parameter, before in self._before:
                parameter.copy_(before)

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, make = self._settings, self._make
        if isinstance(make, str):
            if make not in _BY_NAME:
                raise InvalidInputError(
                    f"with callbacks `sampling_method` (={make!r}) must be an optimizer, or one of {sorted(_BY_NAME)}."
                )
            make = _BY_NAME[make]
        options = {
            "lr": settings.lr,
            "nbeta": settings.n_beta,
            "noise_level": settings.noise_level,
            "localization": settings.localization,
            "weight_decay": settings.weight_decay,
            "bounding_box_size": settings.bounding_box_size,
        }
        known = _parameters(make)
        unset = {"noise_level": 1.0, "localization": 0.0, "weight_decay": 0.0, "bounding_box_size": None}
        options = {name: value for name, value in options.items() if name not in unset or value != unset[name]}
        if unknown := [name for name in {**options, **self._options} if known is not None and name not in known]:
            raise InvalidInputError(
                f"`sampling_method` {getattr(make, '__qualname__', make)} takes no "
                f"{', '.join(f'`{n}`' for n in unknown)}: leave "
                "that out, or use an optimizer of `devinterp.optim`."
            )
        masked = any("mask" in group for group in self._groups)
        if masked and known is not None and not ({"mask", "optimize_over"} & known):
            raise InvalidInputError(
                "this `sampling_method` samples whole parameters only: mask none of their elements."
            )
        optimizer: torch.optim.Optimizer = make(self._groups, **{**options, **self._options})
        return optimizer

    def step(self, step: int, draw: int | None, last: Mapping[str, Any]) -> None:
        """Take a step, and call what is to be called."""
        if self._settings.max_grad_norm is not None:
            self._clip(self._settings.max_grad_norm)
        if isinstance(self.optimizer, SGMCMC):
            self.optimizer.step(noise_generator=self._generator)
        else:
            self.optimizer.step()
        if self._on_step is not None:
            self._on_step(chain=self._chain, step=step, optimizer=self.optimizer)
        if draw is not None:
            known = {
                "model": self._model,
                "optimizer": self.optimizer,
                "chain": self._chain,
                "draw": draw,
                "step": step,
            }
            known |= last
            for callback in self._callbacks:
                call_with(callback, known)
        self.optimizer.zero_grad()

    def _clip(self, max_norm: float) -> None:
        """Scale the gradient so that its norm is at most a limit; elements that are not sampled do not count."""
        gradients = []
        for parameter, group in zip(self._sampled, self._groups, strict=True):
            if parameter.grad is not None:
                if "mask" in group:
                    parameter.grad.mul_(group["mask"])
                gradients.append(parameter.grad[None])
        clip_gradients(gradients, max_norm)


def _parameters(make: Callable[..., Any]) -> set[str] | None:
    """Return the names of a function's parameters; None where it takes any, or any of `SGMCMC`."""
    parameters = inspect.signature(make).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return set(parameters)
