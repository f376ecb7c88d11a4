"""One chain with an evaluation of one's own: `sample_single_chain`, and small helpers of DevInterp 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.kernels import build_transition
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.models.parameter_check import trainable_names
from devinterp.models.restrictions import as_param_masks
from devinterp.sampling.chains.stepper import Stepper
from devinterp.sampling.data.columns import Batch
from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.data.schedule import Schedule
from devinterp.sampling.engines.weights import borrowed
from devinterp.sampling.model_guard import sheltered
from devinterp.sampling.prepare import check_kernel, check_model, choose_device, on_device
from devinterp.sampling.settings import Settings
from devinterp.schema import DRAW, STEP
from devinterp.slt.errors import ChainHealthError, check_health
from devinterp.slt.learning_coeff import (
    estimate_learning_coeff,
    estimate_learning_coeff_with_summary,
    sample,
)
from devinterp.slt.optimizer_chain import OptimizerChain
from devinterp.slt.token_batch import TokenBatch
from devinterp.utils import set_seed

__all__ = [
    "ChainHealthError",
    "MicroCallback",
    "StepCallback",
    "calculate_num_steps",
    "estimate_learning_coeff",
    "estimate_learning_coeff_with_summary",
    "is_transformer_lens_model",
    "sample",
    "sample_single_chain",
    "set_seed",
]

EpochMode = Literal["once", "cycle"]
#: ``evaluate(model, batch)``: the loss to descend, and whatever is to be recorded.
Evaluate = Callable[[nn.Module, Batch], tuple[Tensor, Any]]


@runtime_checkable
class StepCallback(Protocol):
    """What is called after every step."""

    def __call__(self, chain: int, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Take in a step."""


@runtime_checkable
class MicroCallback(Protocol):
    """What is called after the loss of every minibatch."""

    def __call__(self, loss: Tensor, input_ids: Tensor, chain: int, step: int, micro_step: int) -> None:
        """Take in a loss."""


def calculate_num_steps(*, num_draws: int, num_steps_bw_draws: int, num_burnin_steps: int) -> int:
    """Return how many steps a chain takes: those of burn-in, then so many for each draw."""
    return num_burnin_steps + num_draws * num_steps_bw_draws


def is_transformer_lens_model(model: nn.Module) -> bool:
    """Say whether a model is one of TransformerLens, without importing it."""
    return any(cls.__module__.startswith("transformer_lens") for cls in type(model).__mro__)


def sample_single_chain(
    ref_model: nn.Module,
    dataset: Any,
    evaluate: Evaluate,
    param_masks: Mapping[str, Any] | str | Sequence[str] | None = None,
    num_draws: int = 200,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    gradient_accumulation_steps: int = 1,
    sampling_method: Any = "sgmcmc_sgld",
    sampling_method_kwargs: Mapping[str, Any] | None = None,
    chain: int = 0,
    seed: int | None = None,
    dataloader_seed: int | None = None,
    device: str | torch.device | None = None,
    callbacks: Sequence[Callable[..., Any]] | None = None,
    step_callback: StepCallback | None = None,
    micro_callback: MicroCallback | None = None,
    batch_size: int = 32,
    init_noise: float | None = None,
    shuffle: bool = True,
    epoch_mode: EpochMode = "cycle",
    *,
    lr: float | None = None,
    n_beta: float | None = None,
    init_seed: int = 100,
    localization: float = 0.0,
    noise_level: float = 1.0,
    max_grad_norm: float | None = None,
    llc_weight_decay: float = 0.0,
    bounding_box_size: float | None = None,
) -> xr.Dataset:
    """Run one chain, recording what a function of the model gives.

    Parameters
    ----------
    ref_model : torch.nn.Module
        The model at the starting weights; the same afterwards.
    dataset : object
        What minibatches are made of, as for `devinterp.slt.sampling.sample`.
    evaluate : callable
        ``evaluate(model, batch) -> (loss, results)``: a loss, or one for each token, whose mean's gradient moves the chain; and
        results to record at draws: a number, a tensor, or a dict of them. Token ids are a tensor that also answers
        ``batch["input_ids"]``.
    param_masks : mapping, str or sequence of str, optional
        What is sampled; None: every parameter.
    sampling_method : str or optimizer class, default: "sgmcmc_sgld"
        Name of a kernel, or a class of `devinterp.optim` or any other optimizer of torch, for the sampled parameters.
    sampling_method_kwargs : mapping, optional
        Options of the kernel or of the optimizer; also ``lr``, ``nbeta``, ``localization``, ``noise_level``,
        ``weight_decay`` and ``bounding_box_size``, where they are not given by themselves.
    chain : int, default: 0
        Number of the chain.
    seed, dataloader_seed : int, optional
        Of the noise, default ``init_seed + chain``; and of the order of the data, default ``init_seed``.
    callbacks : sequence of callable, optional
        Called at every draw with those of ``model``, ``optimizer``, ``chain``, ``draw``, ``step``, ``loss``, ``results`` and
        ``batch`` that they have parameters for. With these or `step_callback` the chain is moved by an optimizer.
    step_callback, micro_callback : callable, optional
        Called after every step, ``(chain, step, optimizer)``; and after the loss of every minibatch, ``(loss, input_ids, chain,
        step, micro_step)``.
    epoch_mode : {"cycle", "once"}, default: "cycle"
        Whether the data are used again after an epoch, or a chain that needs more is refused.
    lr, n_beta, num_draws, batch_size, num_burnin_steps, num_steps_bw_draws, init_seed : float or int
        As for `devinterp.slt.sampling.sample`.
    gradient_accumulation_steps, localization, noise_level, max_grad_norm, llc_weight_decay, bounding_box_size : optional
        As for `devinterp.slt.sampling.sample`.
    shuffle, init_noise, device : object, optional
        As for `devinterp.slt.sampling.sample`.

    Returns
    -------
    xarray.Dataset
        ``loss(step)``, and at the draws each result ``(draw, ...)`` under its key, or ``results``. Results are of the
        minibatch (the last one of the step), before the step's update.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used, or `evaluate` does not return a loss and results.
    ChainHealthError
        If the loss stops being finite; the message names the step.
    """
    options = dict(sampling_method_kwargs or {})
    given: dict[str, Any] = {"lr": lr, "n_beta": n_beta, "localization": localization, "noise_level": noise_level}
    given |= {"weight_decay": llc_weight_decay, "bounding_box_size": bounding_box_size, "max_grad_norm": max_grad_norm}
    for name in given:
        for key in (name, name.replace("_", "")) if name == "n_beta" else (name,):
            if key in options:
                given[name] = options.pop(key)
    for name in ("lr", "n_beta"):
        if given[name] is None:
            raise InvalidInputError(f"`{name}` is needed: pass it, or in `sampling_method_kwargs`.")
    by_optimizer = not isinstance(sampling_method, str)
    settings = Settings(
        num_chains=1,
        num_draws=num_draws,
        batch_size=batch_size,
        num_burnin_steps=num_burnin_steps,
        num_steps_bw_draws=num_steps_bw_draws,
        init_seed=init_seed if dataloader_seed is None else dataloader_seed,
        gradient_accumulation_steps=gradient_accumulation_steps,
        sampling_method="sgld" if by_optimizer else sampling_method,
        sampling_method_kwargs={} if by_optimizer else options,
        shuffle=shuffle,
        init_noise=init_noise,
        **given,
    )
    check_kernel(settings)
    inner = check_model(ref_model)
    device = choose_device(inner, device)
    trainable = trainable_names(inner)
    noise_seed = init_seed + chain if seed is None else seed
    needs_optimizer = by_optimizer or callbacks or step_callback is not None
    with sheltered(inner, device, seed=noise_seed):
        masks = as_param_masks(ref_model, param_masks, trainable=trainable)
        model = on_device(inner, device)
        source = row_source(dataset, name="`dataset`")
        schedule = Schedule(settings, source.num_rows)
        if epoch_mode == "once" and settings.num_steps * settings.batches_per_step > len(schedule.epoch(0)):
            raise InvalidInputError(
                f"epoch_mode='once': {settings.num_steps} steps need more minibatches than an epoch has "
                f"({len(schedule.epoch(0))}): take fewer draws, or epoch_mode='cycle'."
            )
        batches = schedule.steps(0)
        rows = source.read(np.concatenate(batches)).placed(next(model.parameters()).device)
        evaluated = _Evaluated(evaluate, model, rows, micro_callback, chain)
        moved: OptimizerChain | _KernelChain
        if needs_optimizer:
            moved = OptimizerChain(
                model,
                masks,
                sampling_method,
                settings,
                options,
                seed=noise_seed,
                chain=chain,
                callbacks=callbacks or (),
                step_callback=step_callback,
            )
        else:
            moved = _KernelChain(model, masks, settings, noise_seed)
        return _run(moved, evaluated, batches, settings)


class _Evaluated:
    """The losses and results of minibatches."""

    def __init__(
        self, evaluate: Evaluate, model: nn.Module, rows: Rows, micro_callback: MicroCallback | None, chain: int
    ) -> None:
        self._evaluate, self._model, self._rows, self._micro, self._chain = evaluate, model, rows, micro_callback, chain

    def step(self, step: int, parts: Sequence[np.ndarray]) -> tuple[float, dict[str, Any]]:
        """Compute the gradients of a step; return its mean loss, and the last minibatch with its loss and results."""
        total, last = 0.0, dict[str, Any]()
        for number, part in enumerate(parts):
            batch, mask, _ = self._rows.batch(part)
            if self._rows.token_ids is not None and isinstance(batch, Tensor):
                batch = TokenBatch.of(batch, mask)
            loss, results = _checked(self._evaluate(self._model, batch))
            if self._micro is not None:
                ids = batch["input_ids"] if isinstance(batch, TokenBatch | dict) else batch
                self._micro(loss.detach(), ids, self._chain, step, number)  # type: ignore[arg-type]
            mean = loss.mean()
            (mean / len(parts)).backward()  # type: ignore[no-untyped-call]
            total += float(mean.detach()) / len(parts)
            last = {"loss": loss.detach(), "results": results, "batch": batch}
        check_health(total, step)
        return total, last


class _KernelChain:
    """A chain that a kernel moves."""

    def __init__(self, model: nn.Module, masks: ParamMasks, settings: Settings, seed: int) -> None:
        self._model, self._masks, self._settings, self._seed = model, masks, settings, seed

    def __enter__(self) -> _KernelChain:
        settings = replace(self._settings, init_seed=self._seed)
        self._borrowed = borrowed(self._model, self._masks)
        weights = self._borrowed.__enter__()
        options = settings.sampling_method_kwargs
        transition = build_transition(check_kernel(settings), settings.target, lr=settings.lr, **options)
        self._stepper = Stepper(transition, weights, settings, chains=[0])
        return self

    def __exit__(self, *error: Any) -> None:
        self._borrowed.__exit__(*error)

    def step(self, step: int, draw: int | None, last: dict[str, Any]) -> None:
        """Take a step."""
        self._stepper.step()


def _run(
    moved: _KernelChain | OptimizerChain, evaluated: _Evaluated, batches: Sequence[np.ndarray], settings: Settings
) -> xr.Dataset:
    losses, draws = [], []
    with moved:
        for step, ids in enumerate(batches):
            total, last = evaluated.step(step, np.split(ids, settings.gradient_accumulation_steps))
            draw = settings.draw_after(step)
            recorded = None if draw is None else _to_arrays(last["results"])
            moved.step(step, draw, last)
            losses.append(total)
            if recorded is not None:
                draws.append(recorded)
    return _dataset(losses, draws)


def _checked(returned: Any) -> tuple[Tensor, Any]:
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Tensor)):
        raise InvalidInputError("`evaluate(model, batch)` must return (loss, results) with a loss tensor.")
    loss, results = returned
    if not loss.requires_grad:
        raise InvalidInputError("`evaluate` returned a loss without a gradient: leave out `no_grad` and `detach`.")
    return loss, results


def _to_arrays(results: Any) -> dict[str, np.ndarray]:
    if results is None:
        return {}
    named = results if isinstance(results, Mapping) else {"results": results}
    # Copies: what is returned may be the weights themselves, which move on.
    return {
        str(name): np.array(v.detach().float().cpu().numpy() if isinstance(v, Tensor) else v)
        for name, v in named.items()
    }


def _dataset(losses: list[float], draws: list[dict[str, np.ndarray]]) -> xr.Dataset:
    stacked = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    variables: dict[str, Any] = {"loss": ((STEP,), np.array(losses))}
    for name, values in stacked.items():
        variables[name] = ((DRAW, *(f"{name}_dim_{n}" for n in range(values.ndim - 1))), values)
    return xr.Dataset(variables)
