"""One chain with an evaluation of one's own: `sample_single_chain`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from devinterp.sampling.prepare import check_kernel, check_model, on_device
from devinterp.sampling.settings import Settings
from devinterp.schema import DRAW, STEP

#: ``evaluate(model, batch)``: the loss to descend, and whatever is to be recorded.
Evaluate = Callable[[nn.Module, Batch], tuple[Tensor, Any]]


def sample_single_chain(
    ref_model: nn.Module,
    dataset: Any,
    evaluate: Evaluate,
    param_masks: Mapping[str, Any] | str | Sequence[str] | None = None,
    *,
    lr: float,
    n_beta: float,
    num_draws: int = 200,
    batch_size: int = 32,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    chain: int = 0,
    init_seed: int = 100,
    gradient_accumulation_steps: int = 1,
    localization: float = 0.0,
    noise_level: float = 1.0,
    max_grad_norm: float | None = None,
    llc_weight_decay: float = 0.0,
    bounding_box_size: float | None = None,
    sampling_method: str = "sgmcmc_sgld",
    sampling_method_kwargs: Mapping[str, Any] | None = None,
    shuffle: bool = True,
    init_noise: float | None = None,
    device: str | torch.device | None = None,
) -> xr.Dataset:
    """Run one chain, recording what a function of the model gives.

    Parameters
    ----------
    ref_model : torch.nn.Module
        The model at the starting weights; the same afterwards.
    dataset : object
        What minibatches are made of, as for `devinterp.slt.sampling.sample`.
    evaluate : callable
        ``evaluate(model, batch) -> (loss, results)``: a scalar loss, whose gradient moves the chain, and results to record at
        draws: a number, a tensor, or a dict of them.
    param_masks : mapping, str or sequence of str, optional
        What is sampled; None: every parameter.
    chain : int, default: 0
        Number of the chain; its noise is seeded ``init_seed + chain``.
    lr, n_beta, num_draws, batch_size, num_burnin_steps, num_steps_bw_draws, init_seed : float or int
        As for `devinterp.slt.sampling.sample`.
    gradient_accumulation_steps, localization, noise_level, max_grad_norm, llc_weight_decay, bounding_box_size : optional
        As for `devinterp.slt.sampling.sample`.
    sampling_method, sampling_method_kwargs, shuffle, init_noise, device : object, optional
        As for `devinterp.slt.sampling.sample`.

    Returns
    -------
    xarray.Dataset
        ``loss(step)``, and at the draws each result ``(draw, ...)`` under its key, or ``results``. Results are of the
        minibatch (the last one of the step), before the step's update.

    Raises
    ------
    InvalidInputError
        If an argument cannot be used, or `evaluate` does not return a scalar loss and results.
    FloatingPointError
        If the loss stops being finite; the message names the step.
    """
    settings = Settings(
        lr=lr,
        n_beta=n_beta,
        num_chains=1,
        num_draws=num_draws,
        batch_size=batch_size,
        num_burnin_steps=num_burnin_steps,
        num_steps_bw_draws=num_steps_bw_draws,
        init_seed=init_seed,
        gradient_accumulation_steps=gradient_accumulation_steps,
        localization=localization,
        noise_level=noise_level,
        max_grad_norm=max_grad_norm,
        weight_decay=llc_weight_decay,
        bounding_box_size=bounding_box_size,
        sampling_method=sampling_method,
        sampling_method_kwargs=dict(sampling_method_kwargs or {}),
        shuffle=shuffle,
        init_noise=init_noise,
    )
    check_kernel(settings)
    inner = check_model(ref_model)
    trainable = trainable_names(inner)
    with sheltered(inner, device, seed=settings.init_seed + chain):
        masks = as_param_masks(ref_model, param_masks, trainable=trainable)
        model = on_device(inner, device)
        source = row_source(dataset, name="`dataset`")
        batches = Schedule(settings, source.num_rows).steps(chain)
        rows = source.read(np.concatenate(batches)).placed(next(model.parameters()).device)
        return _run(model, masks, rows, batches, evaluate, settings, chain)


def _run(
    model: nn.Module,
    masks: ParamMasks,
    rows: Rows,
    batches: Sequence[np.ndarray],
    evaluate: Evaluate,
    settings: Settings,
    chain: int,
) -> xr.Dataset:
    num_parts = settings.gradient_accumulation_steps
    losses, draws = [], []
    with borrowed(model, masks) as weights:
        transition = build_transition(
            check_kernel(settings), settings.target, lr=settings.lr, **settings.sampling_method_kwargs
        )
        walker = Stepper(transition, weights, settings, chains=[chain])
        for step, ids in enumerate(batches):
            total, results = 0.0, None
            for part in np.split(ids, num_parts):
                loss, results = _evaluate(evaluate, model, rows.batch(part).data)
                (loss / num_parts).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach()) / num_parts
            if not np.isfinite(total):
                raise FloatingPointError(
                    f"the loss is not finite at step {step}: use a smaller `lr` or more `localization`."
                )
            walker.step()
            losses.append(total)
            if settings.draw_after(step) is not None:
                draws.append(_to_arrays(results))
    return _dataset(losses, draws)


def _evaluate(evaluate: Evaluate, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
    returned = evaluate(model, batch)
    if not (
        isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Tensor) and returned[0].ndim == 0
    ):
        raise InvalidInputError("`evaluate(model, batch)` must return (loss, results) with a loss tensor without dims.")
    loss, results = returned
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
