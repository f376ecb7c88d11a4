"""The steps that made a result, in their order, as every result carries them in its attribute ``steps``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

#: Attribute of every result: a list of steps, the first one first.
STEPS = "steps"


def described(name: str, parameters: Mapping[str, Any] | None = None) -> str:
    """Return a step as it would be called, such as ``"pca(num_components=10)"``; without parameters its name alone."""
    if not parameters:
        return name
    return f"{name}({', '.join(f'{key}={_plain(value)!r}' for key, value in parameters.items())})"


def steps_of(result: xr.Dataset) -> list[str]:
    """Return the steps that made a result, the first one first; none if it does not say."""
    steps = result.attrs.get(STEPS, [])
    return [steps] if isinstance(steps, str) else [str(step) for step in steps]


def after(previous: xr.Dataset, name: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of a result that was made from another: those of that, with one step more.

    Parameters
    ----------
    previous : xarray.Dataset
        What the step was made from.
    name : str
        Name of the step.
    parameters : mapping of str to object, optional
        Its parameters.
    """
    attrs = {key: value for key, value in previous.attrs.items() if key != STEPS}
    return {**attrs, STEPS: [*steps_of(previous), described(name, parameters)]}


def texts_last(result: xr.Dataset) -> xr.Dataset:
    """Return a result with the texts of its tokens behind what was computed, which is what is read first."""
    if "token_ids" not in result:
        return result
    return result.drop_vars("token_ids").assign(token_ids=result["token_ids"])


def _plain(value: Any) -> Any:
    """Return what can be written down of a parameter: plain numbers, words, lists of them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
