"""Every public function and class of DevInterp 2.0.1 and 1.3.2 is here, and takes every argument of its signature."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIGNATURES = Path(__file__).parents[1] / "data" / "signatures"


def arguments(text: str) -> list[str]:
    """Return the names of the arguments in a printed signature."""
    names, depth, start = [], 0, 0
    for place, letter in enumerate(text + ","):
        depth += letter in "([{"
        depth -= letter in ")]}"
        if letter == "," and depth == 0:
            name = re.split(r"[:=]", text[start:place].strip())[0].strip()
            start = place + 1
            if name and name not in ("*", "/") and not name.startswith("*"):
                names.append(name)
    return names


def entries(version: str) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Yield module, name, names of arguments and names of attributes."""
    module = ""
    for line in (SIGNATURES / f"{version}.txt").read_text().splitlines():
        if line.startswith("## "):
            module = line[3:].strip()
        found = re.match(r"(class )?(\w+)", line)
        if not module or not found or line.startswith(("#", "packages")):
            continue
        attributes = re.findall(r"'(\w+)'", line.rpartition("): ")[2]) if found[1] else []
        opening = line.find("(")
        yield module, found[2], arguments(_inside(line[opening:])) if opening >= 0 else [], attributes


def _inside(text: str) -> str:
    depth = 0
    for place, letter in enumerate(text):
        depth += letter in "("
        depth -= letter in ")"
        if depth == 0:
            return text[1:place]
    return text[1:]


def takes(thing: Any, name: str) -> bool:
    parameters = inspect.signature(thing).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


ENTRIES = [(version, *entry) for version in ("v2", "v1") for entry in entries(version)]
#: Names of DevInterp 1 that refuse in one sentence.
REFUSED = ("GradientDistribution", "OnlineTraceStatistics")
#: What is a method there and is not a method of the function's own here.
ELSEWHERE = {"Protocol"}


def test_the_lists_were_read():
    assert len(ENTRIES) > 70
    assert ("v2", "devinterp.utils", "default_nbeta", ["dataloader", "gradient_accumulation_steps"], []) in ENTRIES


@pytest.mark.parametrize(
    ("version", "module", "name", "wanted", "attributes"), ENTRIES, ids=lambda each: str(each)[:40]
)
def test_every_name_takes_every_argument(version, module, name, wanted, attributes):
    thing = getattr(importlib.import_module(module), name)
    assert callable(thing)
    if name in REFUSED:
        with pytest.raises(ValueError, match=f"`{name}` is not available: "):
            thing(1, 2)
        return
    if name in ("StepCallback", "MicroCallback"):
        return  # protocols: what is called with these names is tested in test_single_chains
    missing = [argument for argument in wanted if not takes(thing, argument)]
    assert not missing, f"{module}.{name} takes no {missing}"
    absent = [each for each in attributes if not hasattr(thing, each) and each not in _fields(thing)]
    assert not absent, f"{module}.{name} has no {absent}"


def _fields(thing: Any) -> set[str]:
    own = set(getattr(thing, "__dataclass_fields__", {})) | set(getattr(thing, "_fields", ()))
    return own | {"tracked_metrics"}  # set when an optimizer is made
