"""Which weights move: restrictions such as ``l0h1``, their masks, and how they look."""

from __future__ import annotations

from devinterp.models.masks.param_masks import Mask, ParamMasks, as_param_masks, full_masks
from devinterp.models.masks.preview import preview_weight_restriction
from devinterp.models.restrictions.resolve import create_param_masks, restrictions

__all__ = [
    "Mask",
    "ParamMasks",
    "as_param_masks",
    "create_param_masks",
    "full_masks",
    "preview_weight_restriction",
    "restrictions",
]
