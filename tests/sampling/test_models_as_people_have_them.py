"""Which parameters are sampled: frozen ones stay, what cannot be moved is named, wrappers are looked through."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from devinterp.errors import InvalidInputError
from devinterp.models.parameter_check import check_parameters, check_sampled
from devinterp.models.restrictions import as_param_masks, create_param_masks, restrictions
from devinterp.models.wrappers import unwrapped
from devinterp.slt.sampling import sample
from support.small_models import TinyModel, ids, make, run, same_numbers, snapshot

pytestmark = pytest.mark.usefixtures("unchecked")


def frozen(*parts):
    model = make()
    for part in parts:
        model.get_submodule(part).requires_grad_(False)
    return model


def with_parameter(value, requires_grad=False):
    model = make()
    model.extra = nn.Parameter(value, requires_grad=requires_grad)
    return model


def notes(tree):
    paths = json.loads(tree.attrs["provenance"])["paths"]
    return {key.removeprefix("weights/"): note for key, note in paths.items() if key.startswith("weights/")}


# -- frozen -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_frozen_parameters_stay(chains):
    """The run is that of masks of the trainable parameters, noise included."""
    model = frozen("embed", "head")
    before = snapshot(model)
    tree = run(model, {"input_ids": ids()}, chains=chains)
    expected = run(make(), param_masks={"mix.weight": None, "mix.bias": None}, chains=chains)
    np.testing.assert_array_equal(tree["trace/loss"], expected["trace/loss"])
    assert int(tree["num_moving"][0]) == 42
    assert notes(tree)["full"].startswith("299 of 341 weights stay")
    assert "'embed.weight'" in notes(tree)["full"]
    assert snapshot(model) == before


def test_no_note_where_nothing_is_frozen():
    assert notes(run()) == {}


def test_restrictions_of_what_is_trained():
    model = frozen("embed", "head")
    for given_masks in ("trainable", ["trainable"], None):
        assert list(as_param_masks(model, given_masks)) == ["mix.weight", "mix.bias"]
    assert len(create_param_masks(model, "full")) == 5
    assert list(create_param_masks(model, "trainable - mix.bias")) == ["mix.weight"]
    tree = run(model, weight_restrictions=["full", "trainable"])
    assert tree["num_moving"].values.tolist() == [341, 42]
    assert "trainable" in restrictions(model, "model")
    assert "trainable" not in restrictions(make(), "model")


def test_a_frozen_parameter_that_is_named_moves():
    assert int(run(frozen("head"), param_masks={"head.bias": None})["num_moving"][0]) == 23


def test_nothing_to_train():
    model = make().requires_grad_(False)
    with pytest.raises(InvalidInputError, match=r"all parameters of TinyModel have requires_grad=False.*'full'"):
        run(model)
    with pytest.raises(InvalidInputError, match=r"all parameters .* requires_grad=False: 'full' is all of them"):
        run(model, param_masks="trainable")
    assert int(run(model, param_masks="full")["num_moving"][0]) == 341


@settings(max_examples=20, deadline=None)
@given(flags=st.lists(st.booleans(), min_size=5, max_size=5).filter(any))
def test_exactly_the_trainable_parameters_are_sampled(flags):
    model = make()
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    chosen = [name for (name, _), flag in zip(model.named_parameters(), flags, strict=True) if flag]
    assert list(as_param_masks(model, None)) == chosen
    assert [p.requires_grad for p in model.parameters()] == flags


# -- numbers that do not move -----------------------------------------------------------------------------------------

COARSE = {
    "uint8": torch.zeros(4, 4, dtype=torch.uint8),
    "int8": torch.ones(4, dtype=torch.int8),
    "bool": torch.ones(4, dtype=torch.bool),
    "float8": torch.zeros(4, 4).to(torch.float8_e4m3fn),
    "float8 wide": torch.zeros(4, 4).to(torch.float8_e5m2),
}


@pytest.mark.parametrize("kind", COARSE)
def test_whole_and_coarse_numbers_stay_unless_named(kind, tmp_path):
    model = with_parameter(COARSE[kind])
    before = snapshot(model)
    for masks in (None, "full"):
        tree = run(model, param_masks=masks)
        assert int(tree["num_moving"][0]) == 341
        assert "'extra'" in notes(tree)["full"]
    assert snapshot(model) == before
    for masks in ({"extra": None}, "extra", {"extra": None, "mix.bias": None}):
        with pytest.raises(
            InvalidInputError, match=r"'extra'.* cannot be sampled: its dtype is torch\.(u?int8|bool|float8)"
        ):
            run(model, param_masks=masks, output_path=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


def test_coarse_numbers_that_require_gradients_stay_too():
    model = with_parameter(COARSE["float8"], requires_grad=True)
    assert int(run(model)["num_moving"][0]) == 341


def test_complex_numbers_are_refused():
    model = with_parameter(torch.zeros(3, dtype=torch.complex64), requires_grad=True)
    with pytest.raises(InvalidInputError, match=r"'extra' cannot be sampled: its dtype is torch\.complex64"):
        run(model)
    assert int(run(model, param_masks=["embed", "mix", "head"])["num_moving"][0]) == 341


def test_parameters_without_elements():
    assert int(run(with_parameter(torch.zeros(0, 3), requires_grad=True))["num_moving"][0]) == 341


# -- parameters that are not there ------------------------------------------------------------------------------------


def lazy():
    model = make()
    model.mix = nn.LazyLinear(6)
    return model


def on_meta(part):
    model = make()
    model.get_submodule(part).to("meta")
    return model


def expanded():
    model = make()
    model.mix.bias = nn.Parameter(torch.zeros(1).expand(6))
    return model


def aliased():
    model = make()
    model.head.weight = nn.Parameter(model.embed.weight.data)
    return model


def shifted_alias():
    model = make()
    model.head.bias = nn.Parameter(model.head.weight.data.flatten()[100:123])
    return model


def meta_buffer():
    model = make()
    model.register_buffer("table", torch.empty(3, device="meta"))
    return model


def broken():
    return with_parameter(torch.full((3,), float("nan")).to(torch.float8_e5m2))


REFUSED = {
    "meta": (
        lambda: make().to("meta"),
        r"parameters 'embed.weight', .* and 2 more of the model are on the meta device",
    ),
    "partly on meta": (lambda: on_meta("mix"), r"'mix.weight', 'mix.bias' of the model are on the meta device"),
    "buffer on meta": (meta_buffer, r"'table' of the model is on the meta device"),
    "lazy": (lazy, r"'mix.weight', 'mix.bias' of the model are not initialized: run the model once"),
    "expanded": (expanded, r"parameter 'mix.bias' is expanded"),
    "one memory": (aliased, r"parameters 'embed.weight' and 'head.weight' share memory without being one parameter"),
    "a part of another": (shifted_alias, r"parameters 'head.weight' and 'head.bias' share memory"),
    "NaN in float8": (broken, r"parameter 'extra' of the model holds values that are not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parameters_that_cannot_be_used(name, tmp_path):
    build, message = REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        run(build(), output_path=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


def test_views_of_one_memory_that_do_not_overlap_are_parameters_like_others():
    flat = torch.randn(12, 6) * 0.1
    model = make()
    model.first, model.second = nn.Parameter(flat[:5]), nn.Parameter(flat[5:])
    model.left, model.right = nn.Parameter(torch.zeros(4, 6)[:, ::2]), nn.Parameter(torch.zeros(4, 6)[:, 1::2])
    check_parameters(model)
    check_sampled(model, [name for name, _ in model.named_parameters()])


def test_several_devices_are_refused_by_name():
    """The meta device stands for a second one: there is none on machines without a GPU."""
    model = make()
    places = {"embed.weight": torch.device("cpu"), "head.weight": torch.device("cpu", 1)}

    class Placed(nn.Parameter):
        device = property(lambda self: places["head.weight"])

    model.head.weight = Placed(model.head.weight.detach())
    with pytest.raises(
        InvalidInputError, match=r"on several devices \('embed.weight' on cpu, 'head.weight' on cpu:1\)"
    ):
        check_parameters(model)


# -- sparse gradients -------------------------------------------------------------------------------------------------


class Sparse(TinyModel):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(23, 6, sparse=True)


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
@pytest.mark.parametrize("masks", [None, {"embed.weight": torch.arange(23 * 6).view(23, 6) % 3 == 0}])
@pytest.mark.parametrize("method", ["sgld", "rmsprop_sgld"])
def test_embeddings_with_sparse_gradients(method, masks, chains):
    options = {"sampling_method": method, "param_masks": masks, "save_metrics": True, "chains": chains}
    model = make(Sparse)
    same_numbers(run(model, **options), run(make(), **options))
    assert model.embed.sparse


# -- wrappers ---------------------------------------------------------------------------------------------------------


class Masked(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


PADDED = {"input_ids": ids(), "attention_mask": (torch.arange(9) < 7).long().expand(24, 9)}
WRAPPERS = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "both": lambda m: nn.DataParallel(torch.compile(m)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile's own
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_looked_through(name):
    model = make(Masked)
    wrapped = WRAPPERS[name](model)
    assert unwrapped(wrapped) is model
    expected = run(make(Masked), PADDED)
    assert expected.attrs["config"] == run(wrapped, PADDED).attrs["config"]
    same_numbers(run(wrapped, PADDED), expected)
    masks = create_param_masks(wrapped, "mix")
    assert set(masks) <= dict(wrapped.named_parameters()).keys()
    plain = run(make(), param_masks="mix")
    for given_masks in (masks, "mix", {"mix.weight": None, "mix.bias": None}, list(masks)):
        tree = run(wrapped, param_masks=given_masks)
        np.testing.assert_array_equal(tree["trace/loss"], plain["trace/loss"])


def test_sharded_models_are_refused():
    class FullyShardedDataParallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = make()

    with pytest.raises(InvalidInputError, match="wrapped in FullyShardedDataParallel, which divides its weights"):
        run(FullyShardedDataParallel())


class Lora(nn.Module):
    """A linear layer with a low-rank adapter beside it, with the names that peft gives them."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def llama(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()


def adapted():
    model = llama().requires_grad_(False)
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, Lora(getattr(layer.self_attn, name)))
    return model


def test_lora_adapters_are_a_restriction():
    model = adapted()
    masks = create_param_masks(model, "lora")
    assert masks == create_param_masks(model, "trainable")
    assert all("lora_" in name for name in masks)
    assert int(run(model)["num_moving"][0]) == masks.num_elements
    assert int(run(model, param_masks="lora")["num_moving"][0]) == masks.num_elements
    assert "lora" in restrictions(model, "model")
    with pytest.raises(InvalidInputError, match="has no parameters of LoRA adapters"):
        create_param_masks(make(), "lora")


def test_a_head_holds_the_columns_of_an_adapter_of_the_output_projection():
    masks = create_param_masks(adapted(), "l0h1")
    columns = {name: mask.index for name, mask in masks.items() if "o_proj" in name}
    prefix = "model.layers.0.self_attn.o_proj"
    assert set(columns) == {f"{prefix}.base_layer.weight", f"{prefix}.lora_A.default.weight"}
    for rows, inputs in columns.values():
        assert rows is None
        assert inputs.tolist() == [4, 5, 6, 7]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_of_peft():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "o_proj"])
    model = peft.get_peft_model(llama(), config).eval()
    masks = create_param_masks(model, "l0h1")
    assert set(masks) <= dict(model.named_parameters()).keys()
    assert any("o_proj.lora_A" in name for name in masks)
    tree = run(model)
    assert int(tree["num_moving"][0]) == create_param_masks(model, "lora").num_elements
    assert int(run(model, param_masks=masks)["num_moving"][0]) == masks.num_elements


def test_hooks_of_accelerate():
    accelerate = pytest.importorskip("accelerate")
    model = llama()
    expected = create_param_masks(model, "l0h1"), run(model)
    accelerate.hooks.add_hook_to_module(model, accelerate.hooks.AlignDevicesHook(execution_device="cpu"))
    for layer in model.model.layers:
        accelerate.hooks.add_hook_to_module(layer.self_attn, accelerate.hooks.AlignDevicesHook(execution_device="cpu"))
    assert create_param_masks(model, "l0h1") == expected[0]
    same_numbers(run(model), expected[1])


# -- heads ------------------------------------------------------------------------------------------------------------


def test_heads_under_an_attention_kernel_of_its_own():
    transformers = pytest.importorskip("transformers")

    @torch.library.custom_op("devinterp_tests::attention", mutates_args=())
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).contiguous()

    def forward(module, query, key, value, attention_mask=None, **options):
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        return attention(query, key, value).transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("devinterp_tests", forward)
    model = llama()
    expected = create_param_masks(model, "l0h1")
    other = llama()
    other.config._attn_implementation = "devinterp_tests"
    assert create_param_masks(other, "l0h1") == expected
    assert len(restrictions(other, "head")) == 8
    assert other.config._attn_implementation == "devinterp_tests"


def test_an_empty_sweep_is_refused():
    with pytest.raises(InvalidInputError, match=r"no head was found in TinyModel; it has parts of the kinds model"):
        restrictions(make(), "head")


def classifiers():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {**sizes, "vocab_size": 23, "pad_token_id": 0}
    vision = transformers.ViTConfig(**sizes, image_size=16, patch_size=4)
    bert = transformers.BertConfig(**words, max_position_embeddings=32)
    tokens = {"input_ids": ids(), "attention_mask": torch.ones_like(ids())}
    return {
        "reward model": (
            transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**words, num_labels=1)),
            tokens,
        ),
        "classifier": (transformers.BertForSequenceClassification(bert), tokens),
        "backbone": (transformers.LlamaModel(transformers.LlamaConfig(**words)), tokens),
        "vision transformer": (transformers.ViTForImageClassification(vision), torch.randn(5, 3, 16, 16)),
        "torch encoder": (Encoder(), (torch.randn(5, 7, 16),)),
    }


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layers(x).mean(1))


def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 16, 16, generator=generator), torch.arange(12) % 2


def loss_of_pictures(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(pixel_values=images).logits, labels, reduction="none")


def test_a_head_of_a_vision_transformer_by_class():
    """Pictures with labels: each class is an observable, and its losses at w0 are the model's own."""
    model, images = classifiers()["vision transformer"]
    model.eval()
    images, labels = pictures()
    classes = {f"class {k}": TensorDataset(images[labels == k], labels[labels == k]) for k in range(2)}
    masks = create_param_masks(model, "l1h2", example_inputs=images)
    tree = sample(
        model, TensorDataset(images, labels), {name: (data, 1) for name, data in classes.items()}, loss_fn=loss_of_pictures,
        param_masks=masks, lr=1e-4, n_beta=10.0, localization=10.0, num_chains=2, num_draws=3, batch_size=4,
        num_init_loss_batches=1, progress=False,
    )  # fmt: skip
    for name, data in classes.items():
        rows = tree[f"observables/{name}/sequence_id"].values
        with torch.no_grad():
            expected = loss_of_pictures(model, tuple(tensor[rows] for tensor in data.tensors))
        np.testing.assert_allclose(tree[f"observables/{name}/init_loss"], expected, rtol=1e-5)
    assert set(tree.slt.llc()["observable"].values) == set(classes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"pixel_values": pictures()[0], "labels": pictures()[1]},
            "`dataset` has no `input_ids` column; it has 'pixel_v",
        ),
        (TensorDataset(*pictures()), "got rows of several tensors. For other data pass `loss_fn=`"),
        (pictures()[0], r"got torch.float32 of shape \(\d+, 3, 16, 16\). For other data pass `loss_fn=`"),
        (ids(), "that of the next token, and ViTForImageClassification cannot be run on token ids"),
    ],
    ids=["columns", "tensors", "pictures", "tokens"],
)
def test_a_model_of_pictures_needs_a_loss(data, message):
    model, _ = classifiers()["vision transformer"]
    with pytest.raises(InvalidInputError, match=message):
        sample(model, data, lr=1e-4, n_beta=10.0, num_chains=1, num_draws=1, batch_size=2, progress=False)


@pytest.mark.parametrize("name", ["reward model", "classifier", "backbone", "vision transformer", "torch encoder"])
def test_heads_of_models_that_are_no_language_models(name):
    """By gradients: with a head's values and output columns at zero, its query rows do nothing."""
    model, inputs = classifiers()[name]
    model.eval()
    heads = restrictions(model, "head", example_inputs=inputs)
    assert heads == tuple(f"l{layer}h{head}" for layer in range(2) for head in range(4))
    masks = [create_param_masks(model, f"l0h{head}", example_inputs=inputs) for head in range(4)]
    outputs = {
        name: mask for name, mask in masks[1].items() if (mask.index or (None,))[0] is None and len(mask.shape) == 2
    }
    assert len(outputs) == 1
    (output,) = outputs
    with torch.no_grad():
        weight = model.get_parameter(output)
        weight[outputs[output].to_bool()] = 0
        weight[~outputs[output].to_bool()] += 0.1
    call = inputs if isinstance(inputs, dict) else None
    result = model(**call) if call else model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    out = next(part for part in (getattr(result, "logits", None), getattr(result, "last_hidden_state", None), result)
               if isinstance(part, torch.Tensor))  # fmt: skip
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for head, mine in enumerate(masks):
        for name, mask in mine.items():
            if name != output:
                gradient = mask.take(model.get_parameter(name).grad)
                own = mask - masks[0][name] if head == 1 else mask
                reached = own.take(model.get_parameter(name).grad) if head == 1 else gradient
                assert bool((reached == 0).all()) == (head == 1) or "bias" in name, (head, name)


def test_example_inputs_that_do_not_fit():
    with pytest.raises(InvalidInputError, match=r"Encoder does not run on the first row of `example_inputs`"):
        create_param_masks(Encoder(), "l0h1", example_inputs=torch.randn(5, 7))
    with pytest.raises(InvalidInputError, match=r"Pass `example_inputs=` to `create_param_masks`"):
        create_param_masks(classifiers()["vision transformer"][0], "l0h1")


# -- modules that write in forward ------------------------------------------------------------------------------------


class Keeper(TinyModel):
    """Keeps activations in attributes, lists and dicts, counts calls, makes a buffer, and writes into its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(23, 6, max_norm=0.3)
        self.register_buffer("unit", torch.ones(1).expand(6), persistent=False)
        self.kept, self.by_call, self.num_calls, self.total = [], {}, 0, torch.zeros(())

    def forward(self, ids):
        hidden = self.embed(ids)
        self.last = hidden
        self.kept.append(hidden)
        self.num_calls += 1
        self.by_call[self.num_calls] = [hidden]
        self.total += 1
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(ids.shape[1], 1))
        return self.head(torch.tanh(self.mix(hidden * self.mask * self.unit)))


class Remembering(TinyModel):
    """Without writing into weights, so that chains run side by side."""

    def forward(self, ids):
        self.last = self.embed(ids)
        self.parts = {"hidden": [self.last]}
        return super().forward(ids)


@pytest.mark.parametrize(("kind", "chains"), [(Keeper, "sequential"), (Keeper, "auto"), (Remembering, "vectorized")])
def test_what_modules_keep_in_forward_is_put_back(kind, chains):
    model = make(kind)
    before, attributes = snapshot(model), vars(model).copy()
    run(model, {"input_ids": ids()}, {"seen": ids()}, chains=chains)
    assert snapshot(model) == before
    assert vars(model) == attributes
    if kind is Keeper:
        assert (model.kept, model.by_call, model.num_calls, float(model.total)) == ([], {}, 0, 0.0)


class Caching(TinyModel):
    """Makes something for the shape of its first call, and takes no other afterwards."""

    made: torch.Tensor | None = None

    def forward(self, ids):
        hidden = self.embed(ids)
        if self.made is None:
            self.made = torch.zeros_like(hidden[:1])
        return self.head(torch.tanh(self.mix(hidden + self.made)))


@pytest.mark.parametrize("chains", ["sequential", "auto"])
def test_a_probe_leaves_nothing_that_a_run_would_trip_over(chains):
    model = make(Caching)
    np.testing.assert_allclose(run(model, chains=chains)["trace/loss"], run()["trace/loss"], rtol=1e-5)
    assert "made" not in vars(model)


# -- gradients that are cut off ---------------------------------------------------------------------------------------


class WithoutGradient(TinyModel):
    @torch.no_grad()
    def forward(self, ids):
        return super().forward(ids)


class Detached(TinyModel):
    def forward(self, ids):
        return super().forward(ids).detach()


class Checkpointed(TinyModel):
    reentrant = True

    def forward(self, ids):
        hidden = torch.utils.checkpoint.checkpoint(
            lambda h: torch.tanh(self.mix(h)), self.embed(ids), use_reentrant=self.reentrant
        )
        return self.head(hidden)


@pytest.mark.parametrize("kind", [WithoutGradient, Detached])
def test_a_model_without_gradients_is_no_model_of_a_posterior(kind):
    with pytest.raises(InvalidInputError, match=rf"the logits of {kind.__name__} have no gradient"):
        run(make(kind))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpoints_that_cut_gradients_off():
    """A reentrant checkpoint gives its weights gradients only if its inputs have some."""
    with pytest.raises(InvalidInputError, match=r"sampled parameters of 'mix' only where others .*use_reentrant=False"):
        run(make(Checkpointed), param_masks="mix")
    model = make(Checkpointed)
    np.testing.assert_allclose(run(model)["trace/loss"], run()["trace/loss"], rtol=1e-5)
    model.reentrant = False
    np.testing.assert_allclose(
        run(model, param_masks="mix")["trace/loss"], run(param_masks="mix")["trace/loss"], rtol=1e-5
    )


def test_weights_that_the_loss_does_not_read_are_sampled_from_the_prior():
    model = make()
    model.unused = nn.Linear(4, 4)
    tree = run(model, param_masks="unused", save_metrics=["unscaled_grad", "distance"])
    assert not tree["metrics/unscaled_grad"].any()
    assert (tree["metrics/distance"].isel(step=slice(1, None)) > 0).all()
