"""The source of a loss is part of what it is: it is read once, and again where its file was written anew."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import linecache
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from devinterp.sampling.losses import identity

TEXT = """
class Loss:
    scale = {scale}

    def __call__(self, model, batch):
        return self.scale * model(batch)


def plain(model, batch):
    return {scale} * model(batch)
"""


def write(path: Path, scale: int, *, time: int) -> None:
    path.write_text(TEXT.format(scale=scale))
    os.utime(path, ns=(time, time))


@pytest.fixture
def losses(tmp_path: Path) -> Iterator[tuple[Path, ModuleType]]:
    path = tmp_path / "losses_of_a_user.py"
    write(path, 2, time=10**18)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, path.stem, module)  # where inspect looks for a class
        yield path, module


def described(loss: Callable[..., object]) -> str:
    return identity.describe(loss).text


@pytest.mark.parametrize("make", [lambda module: module.plain, lambda module: module.Loss()])
def test_a_file_that_is_written_anew_is_read_anew(
    losses: tuple[Path, ModuleType], make: Callable[[ModuleType], Callable[..., object]]
) -> None:
    path, module = losses
    loss = make(module)
    before = described(loss)
    assert described(loss) == before
    write(path, 3, time=2 * 10**18)
    changed = described(loss)
    assert changed != before
    write(path, 2, time=3 * 10**18)
    assert described(loss) == before


def test_the_file_of_a_class_is_parsed_once(losses: tuple[Path, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    _, module = losses
    read, num = inspect.getsource, 0

    def counted(value: object) -> str:
        nonlocal num
        num += value is module.Loss
        return read(value)

    monkeypatch.setattr(inspect, "getsource", counted)
    for _ in range(3):
        described(module.Loss())
    assert num == 1


def test_what_is_gone_is_not_kept(losses: tuple[Path, ModuleType]) -> None:
    _, module = losses
    described(module.Loss())
    gone = weakref.ref(module.Loss)
    del module.Loss
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("is_command", [False, True])
def test_of_a_function_without_a_file_the_code_counts(is_command: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_command:  # what Python 3.13 does in `python -c`
        monkeypatch.setitem(linecache.cache, "<string>", (1, None, ["\n"], "<string>"))

    def of(scale: int) -> Callable[..., object]:
        names: dict[str, Callable[..., object]] = {}
        exec(f"def loss(model, batch): return {scale} * model(batch)", names)
        return names["loss"]

    assert described(of(2)) == described(of(2)) != described(of(3))
