"""Which elements of a model's parameters are sampled.

A `Mask` selects elements of one parameter, kept as `index_sets` where it can be; `ParamMasks` are the masks of a model by
parameter name; `preview` draws them.
"""

import torch

from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import (
    ParamMasks,
    canonical_names,
    difference,
    full_masks,
    union,
    validated_masks,
    whole_masks,
)

__all__ = [
    "Mask",
    "ParamMasks",
    "canonical_names",
    "difference",
    "full_masks",
    "union",
    "validated_masks",
    "whole_masks",
]

# So that `torch.load` takes what `torch.save(masks, path)` wrote, as it does with a dict of boolean tensors.
torch.serialization.add_safe_globals([Mask, ParamMasks])
