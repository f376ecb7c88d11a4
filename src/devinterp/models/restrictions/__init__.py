"""Weight restrictions: texts such as ``l0h1`` that name parts of a model, and the masks they stand for.

`grammar` parses a text into terms; `select` returns the masks of a term in a model's structure; `resolve` makes one set
of masks of all terms, and lists the texts that a model has parts for.
"""

from devinterp.models.restrictions.resolve import Kind, as_param_masks, create_param_masks, restrictions

__all__ = ["Kind", "as_param_masks", "create_param_masks", "restrictions"]
