"""The steps of one group of an optimizer's parameters: a kernel's where there is one, else scaled as a preconditioner says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from devinterp import plugins
from devinterp.errors import InvalidInputError
from devinterp.kernels import build_transition
from devinterp.optim.metrics import Metrics
from devinterp.optim.preconditioner import (
    IdentityPreconditioner,
    NHTPreconditioning,
    Preconditioner,
    RMSpropPreconditioner,
)
from devinterp.optim.prior import CompositePrior, GaussianPrior, Prior, UniformPrior
from devinterp.sampling.chains.step_metrics import step_metrics
from devinterp.schema import STEP_METRICS
from devinterp.types import StepInputs, Target, Transition


def preconditioner_called(given: Any, options: dict[str, Any]) -> Preconditioner:
    """Return a preconditioner from its name or itself."""
    if isinstance(given, Preconditioner):
        return given
    known: dict[Any, Any] = {
        None: IdentityPreconditioner,
        "identity": IdentityPreconditioner,
        "rmsprop": RMSpropPreconditioner,
    }
    if given not in known:
        raise InvalidInputError(f"`preconditioner` (={given!r}) must be a Preconditioner, 'identity' or 'rmsprop'.")
    preconditioner: Preconditioner = known[given](**options)
    return preconditioner


class GroupSteps:
    """Moves the parameters of one group.

    Parameters
    ----------
    group : dict
        Of ``optimizer.param_groups``; its settings are read at every step.
    state : mapping
        The optimizer's; what is remembered of each parameter.
    """

    def __init__(self, group: dict[str, Any], state: Any) -> None:
        self._group, self._state = group, state
        self._params: list[Tensor] = list(group["params"])
        self.metrics = Metrics()
        self.weights_before: list[Tensor] = []
        self.slopes_before: list[Tensor] = []
        self.prior_energy = 0.0
        self._built: tuple[Any, Transition] | None = None
        remembered = group["prior"].initialize(self._params)
        for number, param in enumerate(self._params):
            state[param].update(
                {"param_idx": number, "initial_param": param.detach().clone(), "prior": remembered.get(param, {})}
            )
        self._kernel_state: dict[str, list[Tensor]] | None = None

    def step(self, generator: torch.Generator | None, *, measure: bool) -> list[Tensor]:
        """Take a step; return the noise that was added, if it is measured."""
        params = [param for param in self._params if param.grad is not None]
        if not params:
            return []
        group = self._group
        before = [param.detach().clone() for param in params] if group["mask"] is not None else []
        noise: Any = (_noise(param, group["noise_level"], generator)[None] for param in params)
        transition = self._transition(params)
        values = [param.detach()[None] for param in params]
        if self._kernel_state is None:
            self._kernel_state = transition.init(values)
        initial = [self._state[param]["initial_param"][None] for param in params]
        gradients = [param.grad.detach().clone()[None] for param in params if param.grad is not None]
        if measure:
            noise = list(noise)
        inputs = StepInputs(values, gradients, initial, self._kernel_state, noise)
        if measure:
            self._measure(transition, inputs)
            self._remember(params, gradients)
        added = [math.sqrt(group["lr"]) * xi[0].clone() for xi in noise] if measure else []
        transition.update(inputs)
        for number, param in enumerate(params):
            if before:
                mask = torch.as_tensor(_of_param(group["mask"], number)).to(param.device)
                param.detach().copy_(torch.where(mask.expand_as(param) != 0, param, before[number]))
            if group["bounding_box_size"] is not None:
                start = self._state[param]["initial_param"]
                param.detach().clamp_(start - group["bounding_box_size"], start + group["bounding_box_size"])
        return added

    def _remember(self, params: list[Tensor], gradients: list[Tensor]) -> None:
        """Keep the weights before the step, the slope of the whole density there, and what the prior adds to the energy."""
        prior, n_beta = self._group["prior"], _number(self._group["nbeta"])
        self.weights_before = [param.detach().clone() for param in params]
        states = [self._state[param]["prior"] for param in params]
        self.slopes_before = [
            n_beta * gradient[0] + prior.grad(param, state)
            for param, gradient, state in zip(params, gradients, states, strict=True)
        ]
        self.prior_energy = sum(prior_energy(prior, param, state) for param, state in zip(params, states, strict=True))

    def _measure(self, transition: Transition, inputs: StepInputs) -> None:
        scale = self._group["lr"] / 2 * _number(self._group["nbeta"])
        measured = step_metrics(transition, inputs, scale=scale, names=STEP_METRICS)
        self.metrics = Metrics(**measured, numel=sum(value.numel() for value in inputs.values))

    def _transition(self, params: list[Tensor]) -> Transition:
        """Return the kernel with the group's settings, which schedulers change; built anew only where they did."""
        group = self._group
        settings = (group["lr"], _number(group["nbeta"]), group["prior"], group["preconditioner"])
        if self._built is None or self._built[0] != settings or isinstance(self._built[1], Preconditioned):
            self._built = (settings, self._build(params, settings[1]))
        return self._built[1]

    def _build(self, params: list[Tensor], n_beta: float) -> Transition:
        group = self._group
        pulls, preconditioner = _target(group["prior"]), group["preconditioner"]
        if pulls is not None:
            target = Target(n_beta, *pulls)
            if isinstance(preconditioner, IdentityPreconditioner):
                return build_transition(plugins.kernel("sgld"), target, lr=group["lr"])
            if isinstance(preconditioner, RMSpropPreconditioner):
                options = {"alpha": preconditioner.alpha, "eps": preconditioner.eps}
                return build_transition(plugins.kernel("rmsprop_sgld"), target, lr=group["lr"], **options)
            if isinstance(preconditioner, NHTPreconditioning):
                options = {"diffusion": preconditioner.diffusion_factor}
                return build_transition(plugins.kernel("sgnht"), target, lr=group["lr"], **options)
        return Preconditioned(params, group["prior"], preconditioner, n_beta, group["lr"], self._state)


@dataclass
class Preconditioned:
    """Langevin steps with any prior, scaled by any preconditioner."""

    params: list[Tensor]
    prior: Prior
    preconditioner: Preconditioner
    n_beta: float
    lr: float
    states: Any
    _parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return nothing: what is remembered is in the optimizer's state."""
        return {}

    def update(self, step: StepInputs) -> None:
        """Move the weights one step, in place."""
        for value, parts in zip(step.values, self._of_step(step), strict=True):
            value.add_(parts[0] + parts[1] + parts[2])

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the parts of the step that `update` would take."""
        gradient, pull, noise = zip(*self._of_step(step), strict=True)
        return {"gradient": list(gradient), "localization": list(pull), "noise": list(noise)}

    def _of_step(self, step: StepInputs) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the drift of loss and prior and the noise of each parameter; computed once, because states move on."""
        if not self._parts:
            half = self.lr / 2
            for param, gradient, xi in zip(self.params, step.gradients, step.noise, strict=True):
                state = self.states[param]
                coefs = self.preconditioner.get_coefficients(param.detach(), gradient[0], state)
                descended = coefs.grad_coef * self.n_beta * gradient
                if coefs.grad_correction is not None:
                    descended = descended + coefs.grad_correction
                pull = coefs.prior_coef * self.prior.grad(param, state["prior"])[None]
                kick = coefs.noise_coef * math.sqrt(self.lr) * xi
                overall = coefs.overall_coef
                self._parts.append((-half * overall * descended, -half * overall * pull, overall * kick))
        return self._parts


def _target(prior: Prior) -> tuple[float, float] | None:
    """Return the strengths of the pulls towards the initial weights and towards zero; None for another prior."""
    parts: Iterator[Prior] = iter(prior.priors) if isinstance(prior, CompositePrior) else iter([prior])
    localization = weight_decay = 0.0
    for part in parts:
        if isinstance(part, UniformPrior):
            continue
        if isinstance(part, CompositePrior):
            inner = _target(part)
            if inner is None:
                return None
            localization, weight_decay = localization + inner[0], weight_decay + inner[1]
        elif type(part) is GaussianPrior and isinstance(part.center, str):
            localization += part.localization
        elif type(part) is GaussianPrior and (part.center is None or part.center == 0):
            weight_decay += part.localization
        else:
            return None
    return localization, weight_decay


def prior_energy(prior: Prior, param: Tensor, state: dict[str, Any]) -> float:
    """Return minus the logarithm of a Gaussian prior's density at a parameter, up to a constant."""
    if isinstance(prior, CompositePrior):
        parts = enumerate(prior.priors)
        return sum(prior_energy(each, param, state.get(f"prior_{number}", {})) for number, each in parts)
    strength = prior.localization if isinstance(prior, GaussianPrior) else 0.0
    return strength / 2 * float(prior.distance_sq(param, state))


def _noise(param: Tensor, level: float, generator: torch.Generator | None) -> Tensor:
    return torch.randn(param.shape, dtype=param.dtype, device=param.device, generator=generator).mul_(level)


def _number(value: Any) -> float:
    return float(value() if callable(value) else value)


def _of_param(mask: Any, number: int) -> Any:
    return mask[number] if isinstance(mask, list | tuple) else mask
