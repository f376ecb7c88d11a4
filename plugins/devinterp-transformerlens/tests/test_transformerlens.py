"""Masks, loss and sampling through the models of whichever generation of TransformerLens is installed."""

import numpy as np
import pytest
import torch

from devinterp import plugins
from devinterp.models.restrictions import create_param_masks, restrictions
from devinterp.slt.sampling import sample

transformer_lens = pytest.importorskip("transformer_lens")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
VOCAB = 61


def hooked(num_groups=None, gated=False):
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        pytest.skip(str(error))
    config = transformer_lens.HookedTransformerConfig(
        n_layers=1, d_model=32, n_ctx=64, d_head=12, n_heads=4, d_vocab=VOCAB, act_fn="gelu", d_mlp=48, seed=0,
        n_key_value_heads=num_groups, positional_embedding_type="rotary", rotary_dim=12, gated_mlp=gated, device="cpu",
    )  # fmt: skip
    return HookedTransformer(config)


def bridge(kind, directory):
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    tokens = {"bos_token": "t1", "eos_token": "t2", "pad_token": "t3"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(directory)
    common = {"vocab_size": VOCAB, "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4}
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCAB, n_layer=1, n_embd=32, n_head=4, n_positions=64)
        wrapped = transformers.GPT2LMHeadModel(config)
    elif kind == "llama":
        config = transformers.LlamaConfig(**common, intermediate_size=48, num_key_value_heads=2)
        wrapped = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.Qwen3Config(**common, intermediate_size=48, num_key_value_heads=2, head_dim=12)
        wrapped = transformers.Qwen3ForCausalLM(config)
    wrapped.eval().save_pretrained(directory)
    return bridges.TransformerBridge.boot_transformers(str(directory), hf_model=wrapped, device="cpu")


@pytest.fixture(params=["hooked", "hooked_grouped", "hooked_gated", "gpt2", "llama", "qwen3"])
def model(request, tmp_path):
    kind = request.param
    torch.manual_seed(0)
    made = hooked(2 if "grouped" in kind else None, "gated" in kind) if "hooked" in kind else bridge(kind, tmp_path)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape)
    return made.eval()


def test_the_adapter_matches_and_gives_the_models_own_logits(model):
    adapter = plugins.adapter_for(model)
    assert "devinterp-transformerlens" in str(plugins.provider(adapter))
    ids = torch.tensor([[4, 2, 7, 5, 3, 1, 6]])
    assert torch.equal(adapter.logits(model, ids), model(ids, return_type="logits"))
    assert adapter.vocab_size(model) == VOCAB


def test_each_head_depends_on_its_mask_and_on_nothing_of_other_heads(model):
    parameters = dict(model.named_parameters())
    adapter = plugins.adapter_for(model)
    (layer,) = adapter.structure(model).layers
    heads = layer.heads()
    assert len(heads) == 4
    union = create_param_masks(model, "l0h*")
    ids = torch.tensor([[4, 2, 7, 5, 3, 1, 6]])
    for index, head in enumerate(heads):
        saved = {name: parameters[name].detach().clone() for name in head.parts["o"]}
        with torch.no_grad():
            for name, mask in head.parts["o"].items():
                parameters[name] *= mask.to_bool()
        logits = adapter.logits(model, ids)
        names = [name for name in union if name not in saved]
        grads = torch.autograd.grad(logits.square().sum(), [parameters[n] for n in names], allow_unused=True)
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
        mine = create_param_masks(model, f"l0h{index}")
        for name, grad in zip(names, grads, strict=True):
            if grad.ndim < 2 or "b_" in name or "bias" in name:
                continue  # a key's bias shifts all scores alike: its gradient is rounding
            expected = mine[name].to_bool() if name in mine else torch.zeros(grad.shape, dtype=torch.bool)
            assert torch.equal(grad != 0, expected), f"head {index}: {name}"


def test_all_components_are_there_and_cover_the_model(model):
    names = restrictions(model)
    assert {"embed", "unembed", "l0", "l0 attn", "l0 mlp", "l0h3"} <= set(names)
    for name in names:
        assert create_param_masks(model, name).num_elements > 0
    parts = [create_param_masks(model, f"l0 {word}") for word in ("attn", "mlp", "norm") if f"l0 {word}" in names]
    assert (
        sum(len(part) for part in parts) == len(create_param_masks(model, "l0")) == len({n for p in parts for n in p})
    )
    everything = {
        n for name in ("embed", "unembed", "l0", "other") if name in names for n in create_param_masks(model, name)
    }
    assert everything == {name for name, _ in model.named_parameters()}


def test_sampling_a_head_gives_the_weights_back(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = np.random.default_rng(0).integers(4, VOCAB, size=(16, 9))
    tree = sample(
        model=model, dataset=data, observables={"same": (data, 1)}, lr=1e-3, n_beta=5.0, localization=10.0,
        weight_restrictions={"head": create_param_masks(model, "l0h1")}, num_chains=1, num_draws=3, batch_size=4,
        num_init_loss_batches=2,
    )  # fmt: skip
    losses = np.asarray(tree["trace/loss"])
    assert np.isfinite(losses).all()
    assert np.ptp(losses.mean(axis=(-1, -2))) > 0
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
