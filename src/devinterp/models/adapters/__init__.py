"""The built-in model adapters: how a model is called on token ids, and how its structure is found.

`devinterp.plugins.adapter_for` chooses the adapter of a model. Importing this room loads no torch, because plugins are
also loaded by programs that only analyse.
"""

from devinterp.models.adapters.huggingface import HuggingFaceAdapter
from devinterp.models.adapters.torch_module import TorchModuleAdapter

__all__ = ["HuggingFaceAdapter", "TorchModuleAdapter"]
