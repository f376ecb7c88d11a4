"""Weight restrictions: the text that names components, and the masks it stands for."""

from devinterp.models.restrictions.resolve import create_param_masks, restrictions

__all__ = ["create_param_masks", "restrictions"]
