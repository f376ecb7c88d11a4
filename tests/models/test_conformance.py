"""The built-in adapters pass the conformance suite that third parties subclass, and a wrong adapter does not."""

import pytest
import torch
from torch import nn

from devinterp.models.adapters import HuggingFaceAdapter, TorchModuleAdapter
from devinterp.models.masks import Mask
from devinterp.models.structure import Attention, Head, Layer, Structure
from devinterp.testing import ModelAdapterTests

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


class TestLlama(ModelAdapterTests):
    adapter = HuggingFaceAdapter()

    def model(self):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=24)
        return transformers.LlamaForCausalLM(config)


class TestGPT2(ModelAdapterTests):
    adapter = HuggingFaceAdapter()

    def model(self):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=4))


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, 11)

    def forward(self, ids):
        x = self.embed(ids)
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.head(x)


class TestPlainTorch(ModelAdapterTests):
    adapter = TorchModuleAdapter()

    def model(self):
        torch.manual_seed(0)
        return Causal()


def test_a_wrong_structure_fails_the_suite():
    """Heads of half the width: what the suite is there to catch."""

    class Wrong(TestLlama):
        class adapter(HuggingFaceAdapter.__base__):  # noqa: N801
            name = "wrong"
            matches = HuggingFaceAdapter.matches
            logits = HuggingFaceAdapter.logits

            def structure(self, model):
                right = HuggingFaceAdapter().structure(model)
                layers = []
                for layer in right.layers:
                    heads = []
                    for i in range(8):
                        masks = {
                            part: {n: Mask.block(m.shape, {d: [2 * i, 2 * i + 1]}) for n, m in whole.items()}
                            for part, d, whole in (
                                ("q", 0, layer.heads()[0].parts["q"]),
                                ("o", 1, layer.heads()[0].parts["o"]),
                            )
                        }
                        heads.append(Head(masks, i))
                    attention = Attention(layer.attentions[0].name, "self", layer.attn, tuple(heads))
                    layers.append(Layer(layer.name, layer.attn, layer.mlp, layer.norm, (attention,)))
                return Structure(right.embed, right.unembed, {"dec": tuple(layers)}, right.other)

    Wrong.adapter = Wrong.adapter()
    with pytest.raises(AssertionError, match="depends on weights of others"):
        Wrong().test_heads_depend_on_no_other_head()
    Wrong().test_the_structure_covers_the_model()
