"""DevInterp 1's way of sampling: an evaluation and a loader, one chain after the other, and callbacks at every draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from devinterp.errors import InvalidInputError
from devinterp.models.masks.param_masks import full_masks, validated_masks
from devinterp.notes import note_once
from devinterp.optim.sgld import SGLD
from devinterp.sampling.model_guard import own_randomness, sheltered
from devinterp.sampling.prepare import check_model, on_device
from devinterp.sampling.settings import Settings
from devinterp.slt.callback import SamplerCallback, validate_callbacks
from devinterp.slt.errors import check_health
from devinterp.slt.estimators import LLCEstimator, OnlineLLCEstimator
from devinterp.slt.optimizer_chain import OptimizerChain
from devinterp.utils import cycle, default_nbeta, get_init_loss_multi_batch, prepare_input, split_results

_NOTE = (
    "devinterp: this call is DevInterp 1's. Today: `llc(model, dataset, loss_fn=..., lr={lr:g}, n_beta={n_beta:g}, "
    "localization={localization:g}, num_chains={num_chains}, num_draws={num_draws})` of devinterp.slt.llc, where "
    "loss_fn(model, batch) returns a loss for each sample: chains are stored, resumed and checked, and results have errors."
)
#: Seeds where none is given: numbers can be had again.
_SEED = 100


def sample(
    model: nn.Module,
    loader: DataLoader[Any],
    callbacks: Sequence[Any] = (),
    evaluate: Callable[[nn.Module, Any], Any] | None = None,
    sampling_method: Any = SGLD,
    optimizer_kwargs: Mapping[str, Any] | None = None,
    num_draws: int = 100,
    num_chains: int = 10,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    init_loss: float | None = None,
    grad_accum_steps: int = 1,
    cores: Any = 1,
    seed: int | Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    verbose: bool = True,
    optimize_over_per_model_param: Mapping[str, Any] | None = None,
    gpu_idxs: Sequence[int] | None = None,
    batch_size: Any = True,
    use_amp: bool = False,
    first_chain: int = 0,
    **kwargs: Any,
) -> dict[str, Any]:
    r"""Run chains around a model's weights, and call functions at their draws.

    Parameters
    ----------
    model : torch.nn.Module
        The model at the starting weights; the same afterwards.
    loader : torch.utils.data.DataLoader
        Its batches, as they come, are the minibatches of the steps.
    callbacks : sequence of callable, optional
        Called at every draw with those of ``model``, ``optimizer``, ``chain``, ``draw``, ``step``, ``loss``, ``results`` and
        the names in these that they have parameters for.
    evaluate : callable
        ``evaluate(model, batch)``: a loss, ``(loss, ...)``, a dict with ``"loss"`` or an object with ``.loss``.
    sampling_method : optimizer class, default: SGLD
        A class of `devinterp.optim` or any other optimizer of torch.
    optimizer_kwargs : mapping, optional
        Its options: ``lr``, ``localization``, ``nbeta`` (default: `devinterp.utils.default_nbeta` of the loader) ...
    num_draws, num_chains, num_burnin_steps, num_steps_bw_draws, grad_accum_steps : int
        As for `devinterp.slt.sampling.sample`.
    init_loss : float, optional
        Handed on to callbacks.
    seed : int or sequence of int, optional
        Of the first chain (the next ones count up), or of each.
    device : str or torch.device, default: "cpu"
        Where to sample.
    optimize_over_per_model_param : mapping, optional
        Masks of the sampled parameters, by name.
    use_amp : bool, default: False
        Whether the model runs under autocast.
    first_chain : int, default: 0
        Number that callbacks get of the first chain.
    cores, gpu_idxs, verbose, batch_size, **kwargs : object, optional
        Ignored: chains run one after the other.

    Returns
    -------
    dict
        The results of all callbacks that have any.

    Raises
    ------
    ChainHealthError
        If a loss is not finite.
    """
    if evaluate is None:
        raise InvalidInputError("`evaluate` is needed: `devinterp.utils.make_evaluate(criterion)` makes one of a loss.")
    validate_callbacks(list(callbacks))
    check_model(model)
    options = _options(optimizer_kwargs, loader, grad_accum_steps)
    _note(options, num_chains, num_draws)
    settings = _settings(options, num_draws, num_burnin_steps, num_steps_bw_draws, grad_accum_steps)
    seeds = _seeds(seed, num_chains)
    with sheltered(model, device, seed=seeds[0]):
        moved = on_device(model, device)
        masks = (
            full_masks(moved) if optimize_over_per_model_param is None else _masks(moved, optimize_over_per_model_param)
        )
        for chain in range(num_chains):
            with own_randomness(seeds[chain], cuda="cuda" in str(device)):
                chain_of = OptimizerChain(
                    moved,
                    masks,
                    sampling_method,
                    settings,
                    options,
                    seed=None,
                    chain=first_chain + chain,
                    callbacks=callbacks,
                )
                with chain_of, torch.autocast(torch.device(device).type) if use_amp else nullcontext():
                    _run(chain_of, moved, cycle(loader), evaluate, settings, device, init_loss)
    results: dict[str, Any] = {}
    for callback in callbacks:
        if isinstance(callback, SamplerCallback) or hasattr(callback, "get_results"):
            if hasattr(callback, "finalize"):
                callback.finalize()
            results |= callback.get_results()
    return results


def _run(
    chain: OptimizerChain,
    model: nn.Module,
    batches: Iterator[Any],
    evaluate: Callable[[nn.Module, Any], Any],
    settings: Settings,
    device: Any,
    init_loss: float | None,
) -> None:
    for step in range(settings.num_steps):
        total, last = 0.0, dict[str, Any]()
        for _ in range(settings.gradient_accumulation_steps):
            batch = prepare_input(next(batches), device)
            loss, results = split_results(evaluate(model, batch))
            mean = loss.mean() / settings.gradient_accumulation_steps
            mean.backward()  # type: ignore[no-untyped-call]
            total += float(mean.detach())
            last = {"results": results, "batch": batch}
        check_health(total, step)
        named = last["results"] if isinstance(last["results"], Mapping) else {}
        chain.step(
            step, settings.draw_after(step), {**named, **last, "loss": torch.tensor(total), "init_loss": init_loss}
        )


def estimate_learning_coeff_with_summary(
    model: nn.Module,
    loader: DataLoader[Any],
    callbacks: Sequence[Any] = (),
    evaluate: Callable[[nn.Module, Any], Any] | None = None,
    sampling_method: Any = SGLD,
    optimizer_kwargs: Mapping[str, Any] | None = None,
    num_draws: int = 100,
    num_chains: int = 10,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    init_loss: float | None = None,
    grad_accum_steps: int = 1,
    cores: Any = 1,
    seed: int | Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    gpu_idxs: Sequence[int] | None = None,
    verbose: bool = True,
    optimize_over_per_model_param: Mapping[str, Any] | None = None,
    online: bool = False,
    use_amp: bool = False,
) -> dict[str, Any]:
    """Estimate the learning coefficient of a model, with the losses that it comes from.

    Parameters
    ----------
    model, loader, callbacks, evaluate, sampling_method, optimizer_kwargs : object
        As for `sample`.
    num_draws, num_chains, num_burnin_steps, num_steps_bw_draws, grad_accum_steps : int
        As for `sample`.
    init_loss : float, optional
        The loss at the starting weights; default: measured on as many batches as there are chains.
    cores, seed, device, gpu_idxs, verbose, optimize_over_per_model_param, use_amp : object, optional
        As for `sample`.
    online : bool, default: False
        Whether the estimate at every draw is given.

    Returns
    -------
    dict
        ``llc/mean``, ``llc/std``, ``llc-chain/0`` ... (floats) and ``loss/trace`` (chains × draws, float32); with `online`
        ``init_loss``, ``llc/means`` and ``llc/stds`` (draws), ``llc/trace`` and ``loss/trace`` (chains × draws); and the
        results of `callbacks`.
    """
    if evaluate is None:
        raise InvalidInputError("`evaluate` is needed: `devinterp.utils.make_evaluate(criterion)` makes one of a loss.")
    nbeta = _options(optimizer_kwargs, loader, grad_accum_steps)["nbeta"]
    if init_loss is None:
        first = _seeds(seed, num_chains)[0]
        with sheltered(model, device, seed=first):
            moved = on_device(model, device)
            init_loss = get_init_loss_multi_batch(loader, num_chains * grad_accum_steps, moved, evaluate, device, first)
    kind = OnlineLLCEstimator if online else LLCEstimator
    estimator = kind(num_chains, num_draws, init_loss, device=device, nbeta=nbeta)
    return sample(
        model,
        loader,
        [estimator, *callbacks],
        evaluate,
        sampling_method,
        optimizer_kwargs,
        num_draws,
        num_chains,
        num_burnin_steps,
        num_steps_bw_draws,
        init_loss,
        grad_accum_steps,
        seed=seed,
        device=device,
        optimize_over_per_model_param=optimize_over_per_model_param,
        use_amp=use_amp,
    )


def estimate_learning_coeff(
    model: nn.Module, loader: DataLoader[Any], callbacks: Sequence[Any] = (), *args: Any, **options: Any
) -> float:
    """Return the mean learning coefficient; arguments as `estimate_learning_coeff_with_summary`'s."""
    return float(estimate_learning_coeff_with_summary(model, loader, callbacks, *args, **options)["llc/mean"])


def _options(given: Mapping[str, Any] | None, loader: Any, grad_accum_steps: int) -> dict[str, Any]:
    """Return the options of the optimizer with `nbeta` as a number."""
    options = dict(given or {})
    older = options.pop("temperature", None)
    nbeta = options.get("nbeta", older)
    options["nbeta"] = default_nbeta(loader, grad_accum_steps) if nbeta is None or nbeta == "adaptive" else nbeta
    return options


def _settings(options: dict[str, Any], num_draws: int, burnin: int, spacing: int, parts: int) -> Settings:
    """Return the settings of the chains; what is among the optimizer's options is taken out of these."""
    return Settings(
        lr=options.pop("lr", 0.01),
        n_beta=options.pop("nbeta"),
        localization=options.pop("localization", 0.0),
        noise_level=options.pop("noise_level", 1.0),
        weight_decay=options.pop("weight_decay", 0.0),
        bounding_box_size=options.pop("bounding_box_size", None),
        num_chains=1,
        num_draws=num_draws,
        num_burnin_steps=burnin,
        num_steps_bw_draws=spacing,
        gradient_accumulation_steps=parts,
    )


def _masks(model: nn.Module, masks: Mapping[str, Any]) -> Any:
    known = {name: mask for name, mask in masks.items() if mask is not None}
    return validated_masks(
        model, {n: m if isinstance(m, Tensor | bool) else torch.as_tensor(m) for n, m in known.items()}
    )


def _seeds(seed: int | Sequence[int] | None, num_chains: int) -> list[int]:
    if isinstance(seed, Sequence):
        if len(seed) != num_chains:
            raise InvalidInputError(f"`seed` has {len(seed)} entries for {num_chains} chains: give one for each.")
        return [int(each) for each in seed]
    first = _SEED if seed is None else int(seed)
    return [first + chain for chain in range(num_chains)]


def _note(options: Mapping[str, Any], num_chains: int, num_draws: int) -> None:
    values = {
        "lr": options.get("lr", 0.01),
        "n_beta": options["nbeta"],
        "localization": options.get("localization", 0.0),
    }
    if all(isinstance(value, int | float) for value in values.values()):
        note_once("v1", _NOTE.format(**values, num_chains=num_chains, num_draws=num_draws))
