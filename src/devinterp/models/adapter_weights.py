"""Parameters that adapters such as LoRA add to a model, by the names that peft gives them."""

from __future__ import annotations


def is_lora(name: str) -> bool:
    """Say whether a parameter belongs to a LoRA adapter: one of its modules, or itself, is called ``lora_...``."""
    return any(part.startswith("lora_") for part in name.split("."))
