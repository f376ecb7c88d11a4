"""What makes a user's loss the same in two calls: a hash of all that it depends on, and of each variable by its name."""

from __future__ import annotations

import hashlib
import inspect
import textwrap
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError

#: Source by function or class, with the stamp of its file: to find a class Python parses the whole file.
_SOURCES: weakref.WeakKeyDictionary[FunctionType | type, tuple[tuple[str, int, int], str]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class LossIdentity:
    """What identifies a loss function.

    Parameters
    ----------
    text : str
        Its name and a hash of all that it depends on; or what a user says.
    parts : mapping of str to str
        A hash of each variable that it depends on, by name.
    """

    text: str
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Seen:
    """What is known of a function that was sampled with: how it was at the start of runs, and what its own calls change."""

    identities: list[LossIdentity] = field(default_factory=list)
    changed_by_calls: set[str] = field(default_factory=set)


#: By the function, or the object it is a method of, and then by its name; gone with it.
_SEEN: weakref.WeakKeyDictionary[Any, dict[str, _Seen]] = weakref.WeakKeyDictionary()


@contextmanager
def loss_identity(function: Callable[..., Any] | None, loss_id: str | None) -> Iterator[LossIdentity]:
    """Give the identity of a loss function while a run is made with it.

    A function that changes its own variables when it is called (a counter, a log) is the same function to a second run: what
    calls changed is taken as it was at the start of the first.

    Parameters
    ----------
    function : callable or None
        The user's loss function.
    loss_id : str or None
        What identifies it, where the user says so.

    Raises
    ------
    InvalidInputError
        If `loss_id` is no text, or there is no function for it to name.
    """
    if loss_id is not None and not (isinstance(loss_id, str) and loss_id):
        raise InvalidInputError(f"`loss_id` (={loss_id!r}) must be a text that names the version of `loss_fn`.")
    if loss_id is not None and function is None:
        raise InvalidInputError(
            f"`loss_id` (={loss_id!r}) names a `loss_fn`, and there is none: pass both, or neither."
        )
    if loss_id is not None or not callable(function):
        yield LossIdentity("" if loss_id is None else loss_id)
        return
    seen, now = _seen(function), describe(function)
    if not any(before.text == now.text for before in seen.identities):
        same = next((each for each in seen.identities if _differing(each, now) <= seen.changed_by_calls), None)
        if same is None:
            seen.identities.append(now)
        else:
            yield same
            return
    try:
        yield now
    finally:
        seen.changed_by_calls |= _differing(now, describe(function))


def describe(function: Callable[..., Any]) -> LossIdentity:
    """Return the identity of a loss function as it is now."""
    named = function.func if isinstance(function, partial) else function
    parts = {name: _hash(value) for name, value in _named_parts(function)}
    return LossIdentity(f"{getattr(named, '__qualname__', type(named).__qualname__)} {_hash(function)}", parts)


def changed_variables(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the variables whose hashes differ."""
    return [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]


def _differing(one: LossIdentity, other: LossIdentity) -> set[str]:
    return set(changed_variables(one.parts, other.parts))


def _seen(function: Callable[..., Any]) -> _Seen:
    """Return what is known of a function; nothing of one that cannot be held weakly."""
    # Each access of a method gives another object.
    owner, name = (function.__self__, function.__name__) if isinstance(function, MethodType) else (function, "")
    try:
        return _SEEN.setdefault(owner, {}).setdefault(name, _Seen())
    except TypeError:
        return _Seen()


def _hash(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    update_with_value(digest, value)
    return digest.hexdigest()


def _named_parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function depends on, by the names that it has in the user's code."""
    if isinstance(value, partial):
        yield from ((f"argument {n}", each) for n, each in enumerate(value.args))
        yield from value.keywords.items()
        yield from _named_parts(value.func)
    elif isinstance(value, MethodType):
        yield from _named_parts(value.__func__)
        yield from _attributes(value.__self__)
    elif isinstance(value, FunctionType):
        yield "the source", _source(value)
        for names, values in ((list(inspect.signature(value).parameters), (value.__defaults__ or ())),):
            yield from zip(names[len(names) - len(values) :] if values else [], values, strict=False)
        yield from (value.__kwdefaults__ or {}).items()
        yield from zip(value.__code__.co_freevars, map(_contents, value.__closure__ or ()), strict=True)
        pairs = _own_globals(value)
        yield from zip(pairs[::2], pairs[1::2], strict=True)
    else:
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield "the weights", value.state_dict()
        yield "the train mode", value.training
    yield "the source", _source(type(value))
    if not isinstance(value, nn.Module) and hasattr(value, "__dict__"):
        yield from ((f"self.{name}", each) for name, each in vars(value).items())


def update_with_value(digest: Any, value: Any, seen: dict[int, Any] | None = None) -> None:
    """Add to a hash what a loss function is, or holds: source, constants, tensors, and functions of its own module.

    What is none of these (an open file, a logger) adds only its type.
    """
    seen = {} if seen is None else seen
    if id(value) in seen:
        return
    digest.update(type(value).__qualname__.encode())
    if value is None or isinstance(value, str | int | float | complex | bytes):
        digest.update(repr(value).encode())
        return
    seen[id(value)] = value  # held, so that nothing else gets its id meanwhile
    if isinstance(value, Tensor):
        update_with_tensor(digest, "", value)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    else:
        for part in _parts(value):
            update_with_value(digest, part, seen)


def _parts(value: Any) -> Iterable[Any]:
    """Return what a function, a container or an object is made of."""
    if isinstance(value, FunctionType):
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        return [_source(value), value.__defaults__, value.__kwdefaults__, *cells, *_own_globals(value)]
    if isinstance(value, MethodType):
        return [value.__func__, *held(value.__self__)]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, nn.Module):
        return [value.state_dict(), value.training, _source(type(value))]
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(repr(part) for part in value if isinstance(part, str | int | float))
    return held(value) if callable(value) or is_dataclass(value) else []


def held(value: Any) -> list[Any]:
    """Return the class and the attributes of an object, which a hash of it takes in."""
    if isinstance(value, nn.Module):
        return [value]
    return [_source(type(value)), vars(value)] if not isinstance(value, type) and hasattr(value, "__dict__") else []


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet bound
        return None


def _own_globals(function: FunctionType) -> list[Any]:
    """Return the constants a function takes from its module, and the functions it calls there."""
    parts: list[Any] = []
    for name in sorted({name for code in _codes(function.__code__) for name in code.co_names}):
        value = function.__globals__.get(name)
        theirs = isinstance(value, FunctionType) and value.__module__ != function.__module__
        if not theirs and not isinstance(value, ModuleType | type):
            parts += [name, value]
    return parts


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _source(value: FunctionType | type) -> str:
    """Return the source of a function or class; where it is in a file, that is read once until the file is written anew."""
    stamp = _stamp(value)
    if stamp is None:
        return _read_source(value)
    stored = _SOURCES.get(value)
    if stored is None or stored[0] != stamp:
        stored = _SOURCES[value] = (stamp, _read_source(value))
    return stored[1]


def _stamp(value: FunctionType | type) -> tuple[str, int, int] | None:
    """Return the file of a function or class, when it was written and its size; None where there is none."""
    try:
        file = inspect.getsourcefile(value) or ""
        status = Path(file).stat()
    except (OSError, TypeError):
        return None
    return file, status.st_mtime_ns, status.st_size


def _read_source(value: FunctionType | type) -> str:
    code = getattr(value, "__code__", None)
    # From Python 3.13 on, whatever was compiled from a string seems to have the source of the command `python -c`.
    if code is None or code.co_filename != "<string>":
        with suppress(OSError, TypeError):  # typed in at a prompt, or compiled
            return textwrap.dedent(inspect.getsource(value))
    return "" if code is None else f"{code.co_code.hex()}{[c for c in code.co_consts if not isinstance(c, CodeType)]}"


def update_with_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    """Add a tensor to a hash, by its name, dtype, shape and bytes."""
    digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
    # Bytes rather than values: bfloat16 has no numpy counterpart.
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
