"""Recorders as a user asks for them become recorders of a run: built, tried at the initial weights, and described."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from devinterp import plugins, schema
from devinterp.errors import DevinterpError, InvalidInputError
from devinterp.sampling.chains.recordings import recorded, undisturbed
from devinterp.sampling.data.source import RowSource
from devinterp.sampling.losses.identity import update_with_value
from devinterp.sampling.recorded_data import Data, read_data
from devinterp.sampling.spec import RunRecorder, RunSpec
from devinterp.types import ModelAdapter, Recorder, Recording, Snapshot

#: Dims that what a recorder gives has already.
_TAKEN_DIMS = (schema.RESTRICTION, schema.CHAIN, schema.DRAW, schema.STEP)


def run_recorders(
    spec: RunSpec, wanted: Any, source: RowSource, adapter: str | ModelAdapter | None
) -> dict[str, RunRecorder]:
    """Return the recorders of a run, each with what it gives at the initial weights.

    Parameters
    ----------
    spec : RunSpec
        The run; its model must be at the initial weights.
    wanted : object
        As for `devinterp.slt.sampling.sample`.
    source : RowSource
        The data set that the run samples on.
    adapter : str or ModelAdapter or None
        The model adapter that the user chose.

    Raises
    ------
    InvalidInputError
        If a recorder is not known, does not take its settings, or fails at the initial weights.
    """
    requests = _requests(wanted)
    schema.check_names(requests, kind="recorder")
    if not requests:
        return {}
    with undisturbed(spec.model), torch.no_grad():
        runs = {name: _Run(spec, source, adapter, name) for name in requests}
        return {name: _prepared(name, *request, runs[name]) for name, request in requests.items()}


def _requests(wanted: Any) -> dict[str, tuple[Recorder, dict[str, Any]]]:
    """Return recorders and settings by the names of their groups."""
    if wanted is None:
        return {}
    if isinstance(wanted, str | Recorder):
        wanted = [wanted]
    if isinstance(wanted, Mapping):
        return {str(name): _request(name, value) for name, value in wanted.items()}
    if not isinstance(wanted, Sequence):
        raise InvalidInputError(
            "`recorders` must be names of recorders, or a dict of names to settings, such as {'sketch': {'size': 64}}; got "
            f"{type(wanted).__name__}."
        )
    requests = {}
    for each in wanted:
        recorder = _recorder(each)
        if recorder.name in requests:
            raise InvalidInputError(
                f"`recorders` names {recorder.name!r} twice: give each a name of its own, such as "
                f"{{'first': {{'recorder': {recorder.name!r}}}, 'second': ...}}."
            )
        requests[recorder.name] = (recorder, dict[str, Any]())
    return requests


def _request(name: Any, value: Any) -> tuple[Recorder, dict[str, Any]]:
    if isinstance(value, Recorder | str):
        return _recorder(value), {}
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInputError(
            f"`recorders[{name!r}]` must be a dict of settings (with the key 'recorder' where the name is another), a recorder "
            f"or None; got {type(value).__name__}."
        )
    settings = dict(value or {})
    return _recorder(settings.pop("recorder", name)), settings


def _recorder(value: Any) -> Recorder:
    if isinstance(value, Recorder):
        return value
    if not isinstance(value, str):
        raise InvalidInputError(f"a recorder is given by its name or as a `Recorder`; got {type(value).__name__}.")
    return plugins.recorder(value)


def _prepared(name: str, recorder: Recorder, settings: dict[str, Any], run: _Run) -> RunRecorder:
    try:
        recording = recorder.build(run, **settings)
    except DevinterpError:
        raise
    except TypeError as error:
        raise InvalidInputError(
            f"recorder {name!r}: the settings {sorted(settings)} do not fit {recorder.name!r}: {error}"
        ) from error
    except Exception as error:  # a stranger's function may raise anything
        raise InvalidInputError(f"recorder {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(recording, Recording):
        raise InvalidInputError(
            f"`build` of recorder {recorder.name!r} must return a `devinterp.Recording`; got {type(recording).__name__}."
        )
    described, others = _described({**_defaults(recorder), **settings})
    prepared = RunRecorder(recorder.name, described, recording, {}, others, tuple(data.rows for data in run.read))
    initial = recorded(recording, Snapshot(run.model, run.no_displacement), run.sampled(), name=name)
    _check_shape(name, recording, initial)
    return replace(prepared, initial=initial)


def _defaults(recorder: Recorder) -> dict[str, Any]:
    """Return the settings that a recorder has unless a user gives others."""
    parameters = inspect.signature(recorder.build).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _described(settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return settings as JSON, those that are none by their type, and a hash of the latter."""
    described, digest = {}, hashlib.blake2b(digest_size=16)
    for name, value in settings.items():
        try:
            described[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            described[name] = f"({type(value).__name__})"
            update_with_value(digest, [name, value])
    return described, digest.hexdigest()


def _check_shape(name: str, recording: Recording, initial: Mapping[str, np.ndarray]) -> None:
    """Raise unless variables, dims and labels of a recorder fit each other, and its first values are finite."""
    sizes: dict[str, int] = {}
    arrays = {**{v: (recording.dims[v], initial[v]) for v in initial}, **recording.coords}
    for variable, (dims, values) in arrays.items():
        shape = np.shape(values)
        if len(dims) != len(shape) or len(set(dims)) < len(dims):
            raise InvalidInputError(f"recorder {name!r}: `{variable}` has shape {shape} and the dims {tuple(dims)}.")
        for dim, size in zip(dims, shape, strict=True):
            if dim in _TAKEN_DIMS or size == 0 or sizes.setdefault(dim, size) != size:
                reason = "is a dim of every recording" if dim in _TAKEN_DIMS else f"has length {size}"
                raise InvalidInputError(
                    f"recorder {name!r}: dim {dim!r} of `{variable}` {reason}"
                    + (f", and {sizes[dim]} elsewhere." if sizes.get(dim, size) != size else ".")
                )
    for variable, values in initial.items():
        if (
            not variable.isidentifier()
            or variable.startswith(schema.AT_START)
            or variable in {*recording.coords, *sizes}
        ):
            raise InvalidInputError(
                f"recorder {name!r}: a variable cannot be named {variable!r}: it must be a Python identifier, must not begin "
                f"with {schema.AT_START!r}, and must not be the name of a dim or of a label."
            )
        if np.isinf(values).any() or np.isnan(values).all():
            raise InvalidInputError(f"recorder {name!r}: `{variable}` is not finite at the starting weights.")


@final
class _Run:
    """What a recorder knows of a run; a `devinterp.types.RecordedRun`."""

    def __init__(self, spec: RunSpec, source: RowSource, adapter: str | ModelAdapter | None, name: str) -> None:
        self._spec, self._source, self._adapter, self._name = spec, source, adapter, name
        self.read: list[Data] = []

    @property
    def model(self) -> nn.Module:
        return self._spec.model

    @property
    def parameter_names(self) -> Sequence[str]:
        return self._spec.parameter_names

    def data(self, dataset: Any = None, *, num_rows: int | None = None) -> Data:
        data = read_data(
            self._spec, self._source if dataset is None else dataset, num_rows, self._adapter, name=self._name
        )
        self.read.append(data)
        return data

    def sampled(self) -> list[Tensor]:
        """Return all parameters that some weight restriction samples."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return [parameters[name] for name in self.parameter_names]

    def no_displacement(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in zip(self.parameter_names, self.sampled(), strict=True):
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            yield name, torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
