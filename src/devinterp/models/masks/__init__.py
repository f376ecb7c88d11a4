"""Which elements of a model's parameters are sampled."""

from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import ParamMasks, as_param_masks, canonical_names, full_masks

__all__ = ["Mask", "ParamMasks", "as_param_masks", "canonical_names", "full_masks"]
