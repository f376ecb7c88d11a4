"""What recorders give at a draw, of every chain, without leaving a trace in the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.spec import RunRecorder
from devinterp.schema import NO_INTEGER
from devinterp.types import Recording, Snapshot


@final
class Recordings:
    """Asks all recorders of a run at its draws.

    Parameters
    ----------
    engine : Engine
        The chains.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._recorders = engine, engine.spec.recorders

    def at_draw(self, wanted: Sequence[bool]) -> list[dict[str, np.ndarray]]:
        """Return what recorders give now, of each chain, by ``<recorder>/<variable>``.

        Parameters
        ----------
        wanted : sequence of bool
            Which chains to ask about; of the others there is nothing.
        """
        weights = self._engine.weights
        given: list[dict[str, np.ndarray]] = [{} for _ in wanted]
        with closing(
            weights.in_model(wanted)
        ) as chains:  # closed also where a recorder fails: the model is as before then
            for chain in chains:
                snapshot = Snapshot(self._engine.spec.model, partial(weights.displacement, chain))
                for name, recorder in self._recorders.items():
                    values = recorded(recorder.recording, snapshot, weights.parameters, name=name)
                    _check_like_before(recorder, values, name)
                    given[chain] |= {f"{name}/{variable}": value for variable, value in values.items()}
        return given


def why_broken(recorders: Mapping[str, RunRecorder], given: Mapping[str, np.ndarray]) -> str | None:
    """Return which recorder gave values that are not finite where they are at the initial weights; None where none did.

    Parameters
    ----------
    recorders : mapping of str to RunRecorder
        The recorders of the run.
    given : mapping of str to numpy.ndarray
        What they gave of one chain, from `Recordings.at_draw`.
    """
    for name, recorder in recorders.items():
        for variable, initial in recorder.initial.items():
            values = given.get(f"{name}/{variable}")
            if values is not None and not (np.isfinite(values) | np.isnan(initial)).all():
                return f"`{variable}` of recorder {name!r} is not finite"
    return None


def recorded(
    recording: Recording, snapshot: Snapshot, sampled: Sequence[Tensor], *, name: str
) -> dict[str, np.ndarray]:
    """Return what a recorder gives, as arrays in the dtypes in which they are stored.

    Whatever it draws from random generators, or changes in gradients or in buffers of a model in train mode, is put back.

    Parameters
    ----------
    recording : Recording
        The recorder.
    snapshot : Snapshot
        What it sees.
    sampled : sequence of Tensor
        The sampled parameters, which require gradients meanwhile.
    name : str
        Of the recorder, for messages.

    Raises
    ------
    InvalidInputError
        If it fails, or gives anything but named tensors of floating or whole numbers.
    """
    with undisturbed(snapshot.model), _differentiable(sampled), torch.no_grad():
        try:
            given = recording.record(snapshot)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a stranger's function may raise anything
            raise InvalidInputError(f"recorder {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(given, Mapping) or set(given) != set(recording.dims):
        got = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InvalidInputError(f"recorder {name!r} must give a dict of tensors {sorted(recording.dims)}; got {got}.")
    return {variable: _to_array(given[variable], f"{name}/{variable}") for variable in recording.dims}


def _check_like_before(recorder: RunRecorder, values: Mapping[str, np.ndarray], name: str) -> None:
    for variable, initial in recorder.initial.items():
        value = values[variable]
        if value.shape != initial.shape or value.dtype != initial.dtype:
            raise InvalidInputError(
                f"`{variable}` of recorder {name!r} has shape {value.shape} and dtype {value.dtype} at a draw, and had "
                f"{initial.shape} and {initial.dtype} at the initial weights: a recorder gives the same every time."
            )


def _to_array(tensor: object, label: str) -> np.ndarray:
    """Return a tensor as float32, float64 or int64."""
    if not isinstance(tensor, Tensor) or tensor.is_complex():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InvalidInputError(f"recorder variable {label!r} must be a tensor of real or whole numbers; got {got}.")
    if not tensor.is_floating_point():
        whole: np.ndarray = tensor.detach().to("cpu", torch.int64).numpy()
        if (whole == NO_INTEGER).any():
            raise InvalidInputError(
                f"recorder variable {label!r} gave {NO_INTEGER}, which stands for a missing number."
            )
        return whole.copy()
    wider = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.detach().to("cpu", wider).numpy().copy()  # a copy: it may be the weights themselves, which move on


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back, at the end of the block, torch's random generators and the buffers of a model in train mode."""
    device = next(model.parameters()).device
    training = any(module.training for module in model.modules())
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()] if training else []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffer, value in before:
                if 0 not in buffer.stride():
                    buffer.detach().copy_(value)


@contextmanager
def _differentiable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let parameters require gradients inside the block, and have none of their own."""
    saved = [(parameter, parameter.requires_grad, parameter.grad) for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(parameter.is_floating_point())
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, requires_grad, gradient in saved:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
