"""Tiny models of every causal language model that transformers can build, in several variants.

What a type needs beside the usual settings stands in ``model_zoo.json``. Which variants a type has is told by its default
configuration; asking for all of these takes seconds, so that the answer is kept in ``model_zoo_variants.json``. With another
version of transformers: ``PYTHONPATH=tests python -m support.model_zoo`` writes it anew.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

HIDDEN, HEADS, VOCAB = 32, 4, 61
SIZES: dict[str, Any] = {
    **dict.fromkeys(["vocab_size", "unpadded_vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"], VOCAB),
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "embedding_size", "input_embedding_size", "output_embedding_size"], HIDDEN
    ),
    **dict.fromkeys(["attention_hidden_size", "word_embed_proj_dim", "lru_width", "emb_dim", "embedding_dim"], HIDDEN),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"], 2),
    **dict.fromkeys(["num_encoder_layers", "num_decoder_layers", "num_blocks", "max_window_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"], HEADS),
    **dict.fromkeys(["decoder_attention_heads", "encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_encoder_attention_heads", "num_decoder_attention_heads", "swa_num_attention_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"], HEADS),
    **dict.fromkeys(
        ["intermediate_size", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim", "n_inner", "dff", "dim_ff"], 48
    ),
    **dict.fromkeys(["ffn_hidden_size", "d_inner", "feed_forward_size", "shared_intermediate_size"], 48),
    **dict.fromkeys(["intermediate_size_mlp", "dense_intermediate_size", "shared_expert_intermediate_size"], 48),
    **dict.fromkeys(["moe_intermediate_size", "moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"], 24),
    "shared_experts_intermediate_size": 24,
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"], 2),
    **dict.fromkeys(["n_group", "topk_group", "num_expert_group"], 1),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"], 1),
    **dict.fromkeys(["head_dim", "d_head", "dim_head", "d_kv", "kv_channels", "swa_head_dim", "swa_v_head_dim"], 8),
    **dict.fromkeys(["attention_head_size", "attention_head_dim", "global_head_dim"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "rotary_dim", "index_head_dim"], 4),
    "qk_head_dim": 12,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"], 2),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"], 8),
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads", "n_mamba_heads"], 4),
    **dict.fromkeys(["mamba_d_head", "mamba_head_dim", "mamba_headdim"], 16),
    **dict.fromkeys(["mamba_d_state", "state_size", "ssm_state_size"], 8),
    "mamba_d_ssm": 64,
    **dict.fromkeys(["mamba_n_groups", "mamba_ngroups", "n_groups"], 1),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length"], 64),
    **dict.fromkeys(["context_length", "max_target_positions", "max_source_positions"], 64),
    **dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"], 0),
    **dict.fromkeys(["sep_token_id", "cls_token_id", "mask_token_id", "forced_eos_token_id", "eod_token_id"], 0),
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8,
    "num_nextn_predict_layers": 0,
    "query_pre_attn_scalar": 8,
}
VARIANTS = ("plain", "grouped", "wide", "biased", "tied", "multihead")
BIASES = (
    "attention_bias",
    "qkv_bias",
    "use_bias",
    "bias",
    "mlp_bias",
    "use_qkv_bias",
    "add_bias_linear",
    "enable_bias",
    "use_qkv_bias",
    "add_qkv_bias",
)
GROUPS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads")
WIDTHS = ("head_dim", "swa_head_dim")
EXCEPTIONS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "model_zoo.json").read_text())
#: Model types by the variants they have, which are joined by spaces.
_TABLE = Path(__file__).with_name("model_zoo_variants.json")


def model_types() -> list[str]:
    """Every causal-LM model type that the installed transformers knows and that can be run on tokens."""
    return [model_type for model_type in _classes() if "skip" not in EXCEPTIONS.get(model_type, {})]


def left_out() -> list[str]:
    """Those that cannot; ``skip`` in ``model_zoo.json`` says why."""
    return [model_type for model_type in _classes() if "skip" in EXCEPTIONS.get(model_type, {})]


def model_class(model_type: str) -> Any:
    """The class of a model type's models."""
    import transformers

    return getattr(transformers, _classes()[model_type])


def _classes() -> dict[str, str]:
    """The name of the class of each model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


@functools.cache
def variants() -> dict[str, tuple[str, ...]]:
    """The variants of every model type in the table, in the order of `VARIANTS`."""
    table = json.loads(_TABLE.read_text())
    return {model_type: tuple(names.split()) for names, types in table.items() for model_type in types}


def find_variants(model_type: str) -> tuple[str, ...]:
    """The variants of a model type, from its default configuration."""
    defaults = _defaults(model_type)
    return tuple(variant for variant in VARIANTS if _settings(model_type, variant, defaults) is not None)


def _defaults(model_type: str) -> dict[str, Any]:
    """The default configuration of a model type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    subconfig = EXCEPTIONS.get(model_type, {}).get("subconfig")
    config = CONFIG_MAPPING[model_type]()
    return (getattr(config, subconfig) if subconfig else config).to_dict()


def _merge(small: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change settings in place, those of nested configurations one by one."""
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(small.get(name), dict):
            _merge(small[name], value)
        else:
            small[name] = value


def _small(defaults: dict[str, Any]) -> dict[str, Any]:
    """Tiny values for the settings that a configuration has, nested configurations included."""
    small: dict[str, Any] = {}
    for name, value in defaults.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = _small(value)
        elif name in SIZES and (value is not None or name in ("pad_token_id", "n_inner")):
            small[name] = SIZES[name]
    return small


def _vary(small: dict[str, Any], defaults: dict[str, Any], variant: str) -> bool:
    """Change `small` into the variant, in place; False where the configuration has no such setting."""
    changed = False
    for name, value in small.items():
        if isinstance(value, dict) and name in ("text_config", "decoder"):
            changed |= _vary(value, defaults[name], variant)
    if variant == "plain":
        return True
    if variant in ("grouped", "wide"):
        for name in GROUPS:
            if name in small or name in defaults:
                small[name], changed = 2, True
    if variant == "wide":
        wide = [name for name in WIDTHS if name in defaults]
        small.update(dict.fromkeys(wide, 12))
        changed = changed and bool(wide)
    if variant == "biased":
        for name in BIASES:
            if name in defaults:
                small[name], changed = True, True
    if variant == "tied":
        small["tie_word_embeddings"], changed = True, True
    return changed


def _settings(model_type: str, variant: str, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """Tiny values for the settings of a variant, or None where the type has no such variant."""
    small, special = _small(defaults), EXCEPTIONS.get(model_type, {})
    _merge(small, special.get("config", {}))
    if variant not in special.get("variants", VARIANTS) or not (_vary(small, defaults, variant) or variant in special):
        return None
    _merge(small, special.get(variant, {}))
    return small


@functools.lru_cache(maxsize=1)
def build(model_type: str, variant: str = "plain") -> Any:
    """A tiny model of random weights; the last one asked for is kept."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    small, special = _settings(model_type, variant, _defaults(model_type)), EXCEPTIONS.get(model_type, {})
    if small is None:
        raise ValueError(f"there is no variant {variant!r} of {model_type!r}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if "subconfig" in special:
            # The class is registered for a configuration that it does not take.
            config = type(getattr(CONFIG_MAPPING[model_type](), special["subconfig"]))(**small)
            model = model_class(model_type)(config)
        else:
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**small))
    return model.eval()


if __name__ == "__main__":
    table: dict[str, list[str]] = {}
    for each in model_types():
        table.setdefault(" ".join(find_variants(each)), []).append(each)
    _TABLE.write_text(json.dumps({names: sorted(types) for names, types in sorted(table.items())}, indent=1) + "\n")
