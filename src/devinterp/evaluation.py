"""Evaluating a model on batches, as scripts of DevInterp 1 do: what losses come in, and means over batches of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from devinterp import optional
from devinterp.errors import InvalidInputError
from devinterp.sampling.model_guard import own_randomness

Evaluate = Callable[[nn.Module, Any], Any]


class Outputs(NamedTuple):
    """What an evaluation may return: an object with a loss."""

    loss: Tensor


def cycle(iterable: Iterable[Any], limit: int | None = None) -> Iterator[Any]:
    """Yield the items again and again, so many in all if there is a limit."""
    count = 0
    while limit is None or count < limit:
        empty = True
        for item in iterable:
            if limit is not None and count >= limit:
                return
            empty = False
            yield item
            count += 1
        if empty:
            raise InvalidInputError("there is nothing to go through again and again: the loader has no batch.")


def split_results(results: Any) -> tuple[Tensor, Any]:
    """Return the loss of what an evaluation returned, and the rest.

    Raises
    ------
    InvalidInputError
        If there is no loss.
    """
    if isinstance(results, Mapping) and "loss" in results:
        return results["loss"], {name: value for name, value in results.items() if name != "loss"}
    if hasattr(results, "loss"):
        return results.loss, results
    if isinstance(results, Tensor):
        return results, None
    if isinstance(results, tuple) and results and isinstance(results[0], Tensor):
        return results[0], results[1] if len(results) == 2 else results[1:]
    raise InvalidInputError(
        f"`evaluate` must return a loss, (loss, ...), a dict with 'loss' or an object with .loss; got {type(results).__name__}."
    )


def evaluate(
    criterion: Callable[[Tensor, Tensor], Tensor], model: nn.Module, data: Any
) -> tuple[Tensor, dict[str, Any]]:
    """Return the loss of a model on ``(inputs, targets)``, and its output by name."""
    inputs, targets = data
    output = model(inputs)
    return criterion(output, targets), {"output": output}


def make_evaluate(criterion: Callable[[Tensor, Tensor], Tensor]) -> Evaluate:
    """Return an evaluation of ``(inputs, targets)`` by a loss function of torch."""
    return lambda model, data: evaluate(criterion, model, data)


def prepare_input(data: Any, device: Any, is_deepspeed_enabled: bool = False, accelerator: Any = None) -> Any:
    """Return a batch on a device: a tensor, or a tuple, list or dict of them; the last two arguments are ignored."""
    if isinstance(data, Mapping):
        return type(data)({name: prepare_input(value, device) for name, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple | list):
        return type(data)(prepare_input(value, device) for value in data)
    return data.to(device) if isinstance(data, Tensor) else data


def get_init_loss_multi_batch(
    dataloader: Iterable[Any],
    n_batches: int,
    model: nn.Module,
    evaluate: Evaluate,
    device: Any,
    seed: int | None = None,
) -> float:
    """Return the mean loss of a model over the first batches of a loader, which is gone through again where it is shorter."""
    with nullcontext() if seed is None else own_randomness(seed, cuda="cuda" in str(device)), torch.no_grad():
        losses = [_loss(model, batch, evaluate, device) for batch in cycle(dataloader, n_batches)]
    return sum(losses) / len(losses)


def get_init_loss_one_batch(
    dataloader: Iterable[Any], model: nn.Module, evaluate: Evaluate, device: Any, seed: int | None = None
) -> float:
    """Return the mean loss of a model on the first batch of a loader."""
    return get_init_loss_multi_batch(dataloader, 1, model, evaluate, device, seed)


def get_init_loss_full_batch(
    dataloader: Iterable[Any], model: nn.Module, evaluate: Evaluate, device: Any, seed: int | None = None
) -> float:
    """Return the mean over all batches of a loader of the loss of a model."""
    with nullcontext() if seed is None else own_randomness(seed, cuda="cuda" in str(device)), torch.no_grad():
        losses = [_loss(model, batch, evaluate, device) for batch in dataloader]
    if not losses:
        raise InvalidInputError("the loader has no batch.")
    return sum(losses) / len(losses)


def _loss(model: nn.Module, batch: Any, evaluate: Evaluate, device: Any) -> float:
    return float(split_results(evaluate(model, prepare_input(batch, device)))[0].mean())


def plot_trace(
    trace: Any,
    y_axis: str,
    x_axis: str = "step",
    title: str | None = None,
    plot_mean: bool = True,
    plot_std: bool = True,
    fig_size: tuple[float, float] = (12, 9),
    true_lc: float | None = None,
) -> Any:
    """Draw a trace ``(chain, draw)``, with its mean and spread over chains; needs matplotlib. Returns the figure.

    Parameters
    ----------
    trace : array
        The trace.
    y_axis, x_axis, title : str, optional
        Labels.
    plot_mean, plot_std : bool, default: True
        Whether mean and standard deviation are drawn.
    fig_size : (float, float), default: (12, 9)
        In inches.
    true_lc : float, optional
        Where a line is drawn.
    """
    import numpy as np

    plt = optional.require("matplotlib.pyplot", needed_by="`plot_trace`")
    values = np.asarray(trace)
    figure, axes = plt.subplots(figsize=fig_size)
    steps = np.arange(values.shape[1])
    for number, chain in enumerate(values):
        axes.plot(steps, chain, label=f"chain {number}", alpha=0.6)
    mean, spread = values.mean(0), values.std(0)
    if plot_mean:
        axes.plot(steps, mean, color="black", label="mean")
    if plot_std:
        axes.fill_between(steps, mean - spread, mean + spread, color="gray", alpha=0.3)
    if true_lc is not None:
        axes.axhline(true_lc, color="red", linestyle="dashed")
    axes.set(xlabel=x_axis, ylabel=y_axis, title=title or "")
    axes.legend()
    return figure
