"""The grammar, its errors, modules of plain torch, and the preview."""

import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks import difference, union
from devinterp.models.restrictions import as_param_masks, create_param_masks, restrictions
from devinterp.models.restrictions.grammar import parse
from devinterp.slt.weight_restrictions import preview_weight_restriction

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def mixtral():
    config = transformers.MixtralConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, num_local_experts=4, head_dim=12,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


@pytest.fixture(scope="module")
def gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("l0-1", ["l0", "l1"]),
        ("l*", "l0-1"),
        ("l*h0", ["l0h0", "l1h0"]),
        ("l1h0-3", "l1 h*"),
        ("l0,1 h0,2-3", ["l0h0", "l0h2", "l0h3", "l1h0", "l1h2", "l1h3"]),
        ("l0g1", ["l0h2", "l0h3"]),
        ("l0 attn", ["l0 self"]),
        ("l0 mlp", ["l0 experts", "l0 router"]),
        ("l0e*", "l0 experts"),
        ("l0", "l0 attn + l0 mlp + l0 norm"),
        ("l0h1", "l0h1q + l0h1 k + l0h1 v + l0h1 o"),
        ("full - l0-1", "embed + unembed + other"),
        ("l0 - l0 mlp", "l0 attn + l0 norm"),
        ("model.layers.0.*", "l0"),
        ("model.layers.0.self_attn", "l0 attn"),
        ("lm_head.weight", "unembed"),
        ("dec l0h1", "l0h1"),
        (" l0h1 ", "l0h1"),
    ],
)
def test_what_restrictions_mean(mixtral, one, same):
    assert create_param_masks(mixtral, one) == create_param_masks(mixtral, same)


def test_a_head_with_its_own_head_dim_is_its_rows_and_columns(mixtral):
    masks = create_param_masks(mixtral, "l1h3")
    prefix = "model.layers.1.self_attn"
    assert masks[f"{prefix}.q_proj.weight"].index[0].tolist() == list(range(36, 48))
    assert masks[f"{prefix}.k_proj.weight"].index[0].tolist() == list(range(12, 24))
    assert masks[f"{prefix}.o_proj.weight"].index[1].tolist() == list(range(36, 48))
    assert all(mask.index is not None for mask in masks.values())
    assert list(masks) == [name for name, _ in mixtral.named_parameters() if name in masks]


def test_neurons_are_rows_and_columns(gpt2):
    masks = create_param_masks(gpt2, "l0 mlp n3-4")
    assert masks["transformer.h.0.mlp.c_fc.weight"].index[1].tolist() == [3, 4]
    assert masks["transformer.h.0.mlp.c_fc.bias"].index[0].tolist() == [3, 4]
    assert masks["transformer.h.0.mlp.c_proj.weight"].index[0].tolist() == [3, 4]
    assert len(masks) == 3


def test_tied_embeddings_are_one_tensor_with_a_note(gpt2):
    embed, unembed = create_param_masks(gpt2, "embed"), create_param_masks(gpt2, "unembed")
    assert embed == unembed
    assert list(embed) == ["transformer.wte.weight"]
    assert any("tied" in note for note in unembed.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l9", r"number 9: they are 0\.\.1"),
        ("l0-7", r"number 7: they are 0\.\.1"),
        ("l0h9", r"head of layer 0 with number 9: they are 0\.\.3"),
        ("l0g2", r"group of layer 0 with number 2: they are 0\.\.1"),
        ("l0e4", r"expert of layer 0 with number 4: they are 0\.\.3"),
        ("l0 attm", r"'attm' is no part of a layer.*Did you mean 'attn'\?"),
        ("l0h1 z", "'z' is no part of a head"),
        ("l0h1 gate", "no part 'gate'; they have q, k, v, o"),
        ("l0 shared", "has no shared; it has attn, mlp, norm, router"),
        ("l0 cross", "has no cross"),
        ("l0 mlp n3", "mixture of 4 experts"),
        ("enc l0", "no stack 'enc'; it has dec"),
        ("lmhead", "did you mean 'lm_head.weight'"),
        ("nonsense", "is no component, parameter or module"),
        ("model.layers.7.*", "is no component, parameter or module"),
        ("l0 -", "needs a term here"),
        ("", "needs a term here"),
        ("l0h3-1", "range 3-1 is empty"),
        ("l0h1 l0h2", "combine terms by '\\+'"),
        ("full l0", "nothing can follow 'full'"),
        ("l0h", r"'h' is no part of a layer"),
        ("l0 - full", "selects no weights"),
    ],
)
def test_errors_say_what_there_is_and_point_at_the_piece(mixtral, text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        create_param_masks(mixtral, text)
    assert isinstance(caught.value, ValueError)
    assert "^" in str(caught.value) or "selects no weights" in str(caught.value)


def test_no_restriction_is_refused(mixtral):
    with pytest.raises(InvalidInputError, match="or a list of such"):
        create_param_masks(mixtral, [])


@settings(deadline=None)
@given(st.text(alphabet="lhgen0123456789-,* +qkvotmp.", max_size=12))
def test_any_text_is_read_or_refused_as_input(text):
    refused, terms = "", []
    try:
        terms = parse(text)
    except InvalidInputError as error:
        refused = str(error)
    assert "^" in refused or all(term.span.text for term in terms)
    assert bool(refused) != bool(terms)


def test_components_of_a_kind_make_a_sweep(mixtral):
    assert restrictions(mixtral, "head") == tuple(f"l{i}h{j}" for i in range(2) for j in range(4))
    assert restrictions(mixtral, ("group", "router")) == ("l0g0", "l0g1", "l0 router", "l1g0", "l1g1", "l1 router")
    with pytest.raises(InvalidInputError, match=r"`kind` .*must be some of"):
        restrictions(mixtral, ["heads"])


def test_masks_are_made_from_restrictions_wherever_masks_are_taken(mixtral):
    assert as_param_masks(mixtral, "l0h1") == create_param_masks(mixtral, "l0h1")
    assert as_param_masks(mixtral, ["l0h1", "embed"]).description == "l0h1 + embed"
    masks = create_param_masks(mixtral, "l0h1")
    assert pickle.loads(pickle.dumps(masks)) == masks


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=24, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 20)

    def forward(self, ids):
        return self.head(self.encoder(self.embed(ids)))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, dim_feedforward=24, batch_first=True), 2)
        self.head = nn.Linear(16, 20)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(self.decoder(x, x))


@pytest.mark.parametrize("make", [Encoder, lambda: Encoder(bias=False), Decoder])
def test_layers_of_torch_itself_by_gradients(make):
    model = make().eval()
    names = restrictions(model)
    assert {"embed", "unembed", "l0h0", "l1h3", "l0 mlp", "l0 norm"} <= set(names)
    first = restrictions(model, "head")[:4]
    everything = union(create_param_masks(model, name) for name in ("embed", "unembed", "l0-1"))
    assert everything == dict(create_param_masks(model, "full"))
    (out,) = [name for name in create_param_masks(model, "l0h0") if name.endswith("out_proj.weight")]
    parameters = dict(model.named_parameters())
    packed = out.replace("out_proj.weight", "in_proj_weight")
    attention = model.get_submodule(out.rpartition(".out_proj")[0])
    for name in first:
        masks = create_param_masks(model, name)
        saved = parameters[out].detach().clone()
        with torch.no_grad():
            parameters[out] *= masks[out].to_bool()
        x = torch.randn(1, 5, 16)
        result = attention(x, x, x, need_weights=False)[0]
        (grad,) = torch.autograd.grad(result.square().sum(), parameters[packed])
        with torch.no_grad():
            parameters[out].copy_(saved)
        assert torch.equal(grad != 0, masks[packed].to_bool())


def test_cross_attention_of_torch_itself():
    model = Decoder()
    cross = create_param_masks(model, "l0 cross h1")
    assert not set(cross) & set(create_param_masks(model, "l0h1"))
    attn = union(create_param_masks(model, name) for name in ("l0 self", "l0 cross"))
    assert attn == dict(create_param_masks(model, "l0 attn"))


def test_encoder_and_decoder_of_one_model():
    config = transformers.T5Config(vocab_size=61, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config)
    for name, stack in (("enc l0h1", "encoder.block.0"), ("l0h1", "decoder.block.0")):
        parts = [
            f"{stack}.layer.0.SelfAttention.{part}.weight" for part in ("q", "k", "v", "o", "relative_attention_bias")
        ]
        assert set(create_param_masks(model, name)) == set(parts)
    assert all("decoder" in name for name in create_param_masks(model, "l1h1"))
    assert any("EncDecAttention" in name for name in create_param_masks(model, "l0 cross h1"))
    # The table of relative positions has a column for each head.
    bias = [m for n, m in create_param_masks(model, "l0h1").items() if "relative_attention_bias" in n]
    assert [mask.index[1].tolist() for mask in bias] == [[1]]


def test_a_model_that_cannot_be_understood_says_what_to_do():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(3, 3)

        def forward(self, x, y):
            return self.w(x + y)

    with pytest.raises(InvalidInputError, match="write an adapter"):
        create_param_masks(Odd(), "l0h1")
    assert create_param_masks(Odd(), "w.bias").num_elements == 3
    assert create_param_masks(Odd(), "full").num_elements == 12


def test_the_model_is_as_before(mixtral):
    model = transformers.MixtralForCausalLM(mixtral.config).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    restrictions(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_preview_shows_counts_and_rows(mixtral, capsys):
    preview = preview_weight_restriction(mixtral, "l0h1 + embed")
    printed = capsys.readouterr().out
    for text in (str(preview), printed):
        assert "rows 12-23" in text
        assert "l0h1 + embed" in text
    html = preview._repr_html_()
    assert html.startswith("<pre")
    assert "q_proj" in html
    assert "q_proj" in create_param_masks(mixtral, "l0h1")._repr_html_()


def test_difference_drops_what_is_empty(mixtral):
    whole, part = create_param_masks(mixtral, "l0"), create_param_masks(mixtral, "l0 mlp")
    assert not set(difference(whole, part)) & set(part)
