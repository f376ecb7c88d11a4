"""Weight restrictions such as ``l0h1``: which weights they select, as masks and as a picture."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from torch import nn

from devinterp.models.masks import Mask, ParamMasks, full_masks
from devinterp.models.masks.preview import Preview
from devinterp.models.restrictions import as_param_masks, create_param_masks, restrictions

__all__ = [
    "Mask",
    "ParamMasks",
    "as_param_masks",
    "create_param_masks",
    "full_masks",
    "preview_weight_restriction",
    "restrictions",
]


def preview_weight_restriction(
    model: nn.Module, masks: Any = None, *, plain: bool = False, console: Console | None = None
) -> Preview:
    """Show which weights a restriction selects, as a tree of modules with counts and bars.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    masks : str, list of str, mapping or None
        A restriction, or masks by parameter name, as ``param_masks`` of `devinterp.slt.sampling.sample` takes them.
    plain : bool, default: False
        Whether to print without colours and styles.
    console : rich.console.Console, optional
        Printed to; standard output by default. In a notebook nothing is printed: the result is shown.

    Returns
    -------
    Preview
        The drawing; `print`, rich and notebooks show it.

    Raises
    ------
    InvalidInputError
        The masks do not fit this model.
    """
    preview = Preview(as_param_masks(model, masks), sum(p.numel() for p in model.parameters()))
    console = console or (Console(no_color=True, highlight=False, force_terminal=False) if plain else Console())
    if not console.is_jupyter:
        console.print(preview)
    return preview
