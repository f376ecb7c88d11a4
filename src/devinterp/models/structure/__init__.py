"""Where the parts of a model are: embeddings, layers, attentions, heads, MLPs, norms.

`detect` derives a `Structure` (`types`) from one run of the model: `trace` records the run; `attention` probes each
attention for its heads (`probing_run`, `probe_heads`, `head_supports`, `head_parts`, `known_layouts`); `layer_lists` finds
the stacks of layers; `layer_parts` and `mlp` sort the parameters of each layer.
"""

from devinterp.models.structure.detect import detect
from devinterp.models.structure.types import Attention, Head, Layer, Neurons, Structure

__all__ = ["Attention", "Head", "Layer", "Neurons", "Structure", "detect"]
