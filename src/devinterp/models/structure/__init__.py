"""Where the components of a model are: embeddings, layers, attentions, heads, MLPs, norms."""

from devinterp.models.structure.detect import detect
from devinterp.models.structure.types import Attention, Head, Layer, Neurons, Structure

__all__ = ["Attention", "Head", "Layer", "Neurons", "Structure", "detect"]
