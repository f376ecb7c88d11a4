"""The model inside what wraps it: compiled modules, data parallelism, adapters of PEFT.

A wrapper runs the same weights under other names and hides the model from adapters and hooks; what is sampled is the model
inside. Names of either are understood.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from devinterp.errors import InvalidInputError

#: Class of a wrapper, by name so that nothing is imported, and the attribute that holds the model.
_HOLDERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
_SHARDED = ("FullyShardedDataParallel", "DeepSpeedEngine")
#: Adapters of PEFT that do more in ``forward`` than their layers do.
_ACTIVE = ("XLORA", "ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of wrappers; the model itself where there are none.

    Raises
    ------
    InvalidInputError
        If it is no module, or a wrapper has divided the weights among processes.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")
    return _peeled(model)[0]


def inner_name(model: nn.Module, name: str) -> str:
    """Return the name, inside of wrappers, of a parameter or module of a wrapped model; other names as they are."""
    prefix = _peeled(model)[1]
    return name.removeprefix(prefix) if prefix else name


def outer_prefix(model: nn.Module) -> str:
    """Return what wrappers put before the names of the model inside."""
    return _peeled(model)[1]


def _peeled(model: nn.Module) -> tuple[nn.Module, str]:
    prefix = ""
    while True:
        step = _inside(model)
        if step is None:
            return model, prefix
        inner, path = step
        model, prefix = inner, f"{prefix}{path}."


def _inside(model: nn.Module) -> tuple[nn.Module, str] | None:
    kinds = [kind.__name__ for kind in type(model).__mro__]
    sharded = next((kind for kind in kinds if kind in _SHARDED), None)
    if sharded is not None:
        raise InvalidInputError(
            f"the model is wrapped in {sharded}, which divides its weights among processes: pass the whole model on one "
            "device; `workers=` spreads chains over GPUs."
        )
    for kind in kinds:
        inner = getattr(model, _HOLDERS.get(kind, ""), None)
        if isinstance(inner, nn.Module):
            return inner, _HOLDERS[kind]
    if "PeftModel" in kinds:
        return _inside_adapters(model)
    return None


def _inside_adapters(model: Any) -> tuple[nn.Module, str] | None:
    """Return the model whose layers hold adapters such as LoRA; None for a prompt, which only the wrapper puts in front."""
    config = getattr(model, "active_peft_config", None)
    kind = str(getattr(getattr(config, "peft_type", ""), "value", getattr(config, "peft_type", "")))
    if config is None or getattr(config, "is_prompt_learning", False) or kind in _ACTIVE:
        return None
    inner = getattr(model.base_model, "model", None)
    return (inner, "base_model.model") if isinstance(inner, nn.Module) else None
