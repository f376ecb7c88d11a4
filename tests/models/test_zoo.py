"""Masks of every causal language model that transformers can build, proved by gradients on the running model.

Each head is isolated by zeroing what its mask calls the output columns of the other heads; the gradient of the attention's
output must then be non-zero exactly on the head's mask, beside weights that all heads share.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest
import torch
from torch import nn

from devinterp.models.adapters.huggingface import HuggingFaceAdapter, complete_forward
from devinterp.models.forward import logits_of
from devinterp.models.masks import canonical_names, union
from devinterp.models.restrictions import create_param_masks, restrictions
from support import model_zoo as zoo

pytest.importorskip("transformers")
# What other people's code warns of is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")


def prepared(model_type, variant):
    """A model with no zero and no saturated weights, and norms that do not couple heads by their statistics."""
    model = zoo.build(model_type, variant)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator) * (p.ndim < 2 or p.shape[-1] ** -0.5)
    return model


class Scale(nn.Module):
    """A norm without its statistics: one number over the width of all heads would couple each head to all others."""

    def __init__(self, norm):
        super().__init__()
        self.inner = norm

    def forward(self, x):
        for name, p in self.inner.named_parameters():
            x = x + p if name == "bias" else x * p
        return x


def above(paths):
    return {path.rpartition(".")[0] for path in paths}


def without_statistics(model, names):
    """Freeze the norms among the modules that own these parameters."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
    # Norms without weights own none: look beside the owners, too.
    owners |= dict.fromkeys(
        p for p, m in model.named_modules() if not list(m.parameters()) and p.rpartition(".")[0] in above(owners)
    )
    replaced = []
    for module in (model.get_submodule(path) for path in owners):
        name = type(module).__name__
        if re.search(r"Norm$", name) and not re.search(r"QKNorm|Gated|Dynamic", name):
            module.forward = Scale(module).forward
            replaced.append(module)
    return replaced


def run(model, watch):
    """Outputs of the modules in `watch` at their first call, on seven tokens."""
    seen, calls, forward = {}, {}, complete_forward(model)

    def record(name):
        def hook(module, args, kwargs, output):
            calls[name] = (args, kwargs)
            out = output if isinstance(output, torch.Tensor) else next(t for t in output if isinstance(t, torch.Tensor))
            if out.requires_grad or name not in seen:  # some models run their first rounds without gradients
                seen[name] = out

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(record(name), with_kwargs=True) for name in watch]
    ids = torch.tensor([[4, 2, 7, 5, 3, 1, 6]])
    try:
        logits = logits_of(forward(ids), model)
    finally:
        for hook in hooks:
            hook.remove()
    for name in watch:
        if (
            not seen[name].requires_grad and name in calls
        ):  # run within an autograd function (Reformer): again, with gradients
            args, kwargs = calls[name]
            seen[name] = model.get_submodule(name)(*args, **kwargs)[0]
    return seen, logits


def support(out, model, names):
    """Which elements of the named parameters a random projection of `out` depends on."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad((out * weights).sum(), chosen, allow_unused=True)
    return {
        n: torch.zeros(p.shape, dtype=torch.bool) if g is None else g != 0
        for n, p, g in zip(names, chosen, grads, strict=True)
    }


def check_attention(model, attention, expected, outside):
    parameters = dict(model.named_parameters())
    assert len(attention.heads) == expected, f"{attention.name}: {len(attention.heads)} heads, {attention.no_heads}"
    columns = union(head.parts["o"] for head in attention.heads)
    assert all(mask.is_whole for mask in columns.values()), "output columns of the heads do not cover the projection"
    frozen = without_statistics(model, attention.masks)
    names = list(attention.masks)
    for name in names:
        parameters[name].requires_grad_()  # BLT's patcher comes frozen
    supports = []
    try:
        for head in attention.heads:
            saved = {name: parameters[name].detach().clone() for name in columns}
            with torch.no_grad():
                for name, mask in head.parts["o"].items():
                    parameters[name] *= mask.to_bool()
            seen, _ = run(model, [attention.name])
            supports.append(support(seen[attention.name], model, names))
            with torch.no_grad():
                for name, value in saved.items():
                    parameters[name].copy_(value)
    finally:
        for module in frozen:
            del module.forward
    for index, (head, reached) in enumerate(zip(attention.heads, supports, strict=True)):
        masks = head.masks
        for name in names:
            mine = masks[name].to_bool() if name in masks else torch.zeros_like(reached[name])
            of_heads = torch.zeros_like(mine)
            for other in attention.heads:
                if name in other.masks:
                    of_heads |= other.masks[name].to_bool()
            if name in columns:
                reached[name] = reached[name] & mine  # the zeroed columns still have gradients of their own
            extra = reached[name] & ~mine
            if any(known in name for known in outside):
                continue
            # Outside of its mask a head depends only on what belongs to no head, and then all heads depend on it.
            assert not (extra & of_heads).any(), (
                f"head {index} of {attention.name} depends on weights of others: {name}"
            )
            in_all = torch.stack([s[name] for s in supports]).all(0)
            if parameters[name].ndim == 1 and "bias" in name:
                continue  # a key's bias: rounding reaches some heads and not others
            assert not (extra & ~in_all).any(), (
                f"head {index} of {attention.name} alone depends on {name} outside its mask"
            )
            missing = mine & ~reached[name]
            if missing.any() and not harmless(name, parameters[name], mine, reached[name], attention):
                raise AssertionError(
                    f"head {index} of {attention.name} does not depend on {name}: {int(missing.sum())}"
                )


def harmless(name, parameter, mine, reached, attention):
    """Weights of a head that this input does not reach: a key's bias, which shifts all scores alike; distances and
    experts that no token visits."""
    if parameter.ndim == 1 and "bias" in name:
        return True
    # Each row or slice that was not reached at all is one that the input did not visit.
    if "r_s_bias" in name or "seg_embed" in name:
        return True  # XLNet's segments: the input has none
    if "relative" in name or "rel_" in name or parameter.ndim == 3:
        return bool(reached.any())
    return False


def check_layer(model, model_type, layer):
    canonical = canonical_names(model)
    parts = [layer.attn, layer.mlp, layer.norm]
    names = Counter(name for part in parts for name in part)
    assert max(names.values()) == 1, "attn, mlp and norm overlap"
    assert all(mask.is_whole for part in parts for mask in part.values())
    if model_type != "xlm":
        inside = {
            canonical[f"{layer.name}.{n}"]
            for n, _ in model.get_submodule(layer.name).named_parameters(remove_duplicate=False)
        }
        assert set(names) == inside, "attn, mlp and norm do not cover the layer"
    for experts in layer.experts:
        assert set(experts) <= set(layer.mlp)
    assert set(layer.router) <= set(layer.mlp)


def check_experts(model, layer, top_k):
    """One token's output depends on as many experts as are chosen for it, and always on the same ones."""
    if not layer.experts or top_k is None:
        return
    seen, _ = run(model, [layer.name])
    out = seen[layer.name].flatten(0, -2)[-1:]
    names = sorted({name for expert in layer.experts for name in expert})
    reached = support(out, model, names)
    used = [any(bool((reached[n] & m.to_bool()).any()) for n, m in expert.items()) for expert in layer.experts]
    assert sum(used) == top_k, f"{layer.name}: {sum(used)} of {len(used)} experts used by a token, not {top_k}"
    total = union(layer.experts)
    assert sum(m.num_elements for e in layer.experts for m in e.values()) == sum(m.num_elements for m in total.values())
    assert layer.router, "experts without a router"


def check_neurons(model, layer):
    """A neuron's masks are its rows and its column: without its column, the output depends on its rows no more."""
    if layer.neurons is None:
        return
    parameters = dict(model.named_parameters())
    canonical = canonical_names(model)
    frozen = without_statistics(model, layer.mlp)
    down = canonical[layer.neurons.places[0][0]]
    for neuron in (0, 1, layer.neurons.size - 1):
        masks = {canonical[name]: mask for name, mask in layer.neurons.masks([neuron]).items()}
        assert set(masks) <= set(layer.mlp)
        saved = parameters[down].detach().clone()
        with torch.no_grad():  # leave this neuron's column alone
            parameters[down] *= masks[down].to_bool()
        seen, _ = run(model, [layer.name])
        reached = support(seen[layer.name], model, [n for n in layer.mlp if n != down])
        with torch.no_grad():
            parameters[down].copy_(saved)
        for name, hit in reached.items():
            mine = masks[name].to_bool() if name in masks else torch.zeros_like(hit)
            if ("bias" in name or hit.numel() == 1) and not mine.any():
                continue  # biases behind the output projection, and numbers that all neurons share, are of no neuron
            assert not (hit & ~mine).any(), f"neuron {neuron} of {layer.name} depends on more of {name}"
    for module in frozen:
        del module.forward


def check_whole_model(model, structure, variant):
    canonical = canonical_names(model)
    parameters = {id(p): name for name, p in model.named_parameters()}
    assert structure.unembed, "no unembedding"
    output = model.get_output_embeddings() if not hasattr(model, "pred_layer") else model.pred_layer.proj
    if isinstance(output, nn.Linear):
        assert parameters[id(output.weight)] in structure.unembed
    table = model.get_input_embeddings()
    if isinstance(table, nn.Embedding):
        assert parameters[id(table.weight)] in structure.embed
    if isinstance(output, nn.Linear) and isinstance(table, nn.Embedding) and output.weight is table.weight:
        assert create_param_masks(model, "embed").keys() & create_param_masks(model, "unembed").keys()
        assert any("tied" in note for note in create_param_masks(model, "unembed").notes)
    everything = union(
        [structure.embed, structure.unembed, structure.other, *(layer.masks for _, _, layer in structure)]
    )
    assert set(everything) == set(canonical.values()), "some weights are in no component"
    for name in restrictions(model):
        assert create_param_masks(model, name).num_elements > 0
    for index, layer in enumerate(structure.layers):
        queries = {group: [] for group in (head.group for head in layer.heads())}
        for number, head in enumerate(layer.heads()):
            queries[head.group].append(f"l{index}h{number}")
        if len(layer.attentions) == 1:
            for group, heads in queries.items():
                assert create_param_masks(model, f"l{index}g{group}") == create_param_masks(model, heads)


@pytest.mark.parametrize("model_type", zoo.left_out())
def test_types_left_out_cannot_be_run_on_tokens_alone(model_type):
    """For want of a package, or of what another model would give them."""
    special = zoo.EXCEPTIONS[model_type]
    if "package" in special:
        with pytest.raises(ImportError, match=f"requires the {special['package']} library"):
            zoo.build(model_type)
    else:
        assert special["argument"] in inspect.signature(zoo.model_class(model_type).forward).parameters


def test_the_table_of_variants_is_that_of_the_configurations():
    assert zoo.variants() == {model_type: zoo.find_variants(model_type) for model_type in zoo.model_types()}


#: One of each family that is used most; the others are heavy, as further variants are, only because they are many.
FAMILIES = {
    "bert", "bloom", "codegen", "cohere2", "deepseek_v3", "falcon", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "jamba", "llama", "llama4_text", "mamba2", "mistral", "mixtral",
    "mpt", "nemotron", "olmo2", "olmoe", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_next", "roberta",
    "smollm3", "stablelm", "starcoder2", "xglm", "xlnet",
}  # fmt: skip
#: How variants beside the first of each type are marked.
MARKS = {"biased": pytest.mark.slow, "tied": pytest.mark.slow}


def cases():
    for model_type in zoo.model_types():
        for number, variant in enumerate(zoo.variants().get(model_type, ("plain",))):
            is_light = number == 0 and model_type in FAMILIES
            marks = () if is_light else MARKS.get(variant, pytest.mark.heavy)
            yield pytest.param(model_type, variant, marks=marks, id=f"{model_type}-{variant}")


@pytest.mark.parametrize(("model_type", "variant"), list(cases()))
def test_masks_are_what_gradients_say(model_type, variant, record_property):
    model = prepared(model_type, variant)
    special = zoo.EXCEPTIONS.get(model_type, {})
    structure = HuggingFaceAdapter().structure(model)
    assert structure.layers, "no layers"
    heads = 0
    for _, _, layer in structure:
        check_layer(model, model_type, layer)
        if "layer_outputs" not in special and variant != "tied":  # tying changes no layer
            check_experts(model, layer, special.get("top_k", 2))
            check_neurons(model, layer)
        for attention in layer.attentions:
            check_attention(model, attention, special.get(f"{variant}_heads", zoo.HEADS), special.get("outside", {}))
            heads += len(attention.heads)
            if variant in ("grouped", "wide") and "groups" not in special:
                assert len({head.group for head in attention.heads}) == 2
    check_whole_model(model, structure, variant)
    assert heads or special.get("no_heads"), "no heads, and no reason given in model_zoo.json"
    record_property("heads", heads)
