"""The two built-in adapters: running a model, and its vocabulary."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.adapters import HuggingFaceAdapter, TorchModuleAdapter

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


class Plain(nn.Module):
    def __init__(self, wrap=lambda logits: logits):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.position = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 11)
        self.dropout = nn.Dropout(0.5)
        self.wrap = wrap

    def forward(self, ids):
        x = self.position(torch.arange(ids.shape[1])) + self.embed(ids)
        return self.wrap(self.head(self.dropout(x)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: {"logits": logits},
        lambda logits: (logits, None),
    ],
)
def test_a_module_may_return_logits_in_any_usual_form(wrap):
    model, adapter = Plain(wrap).eval(), TorchModuleAdapter()
    ids = torch.tensor([[1, 2, 3]])
    expected = model.head(model.embed(ids) + model.position(torch.arange(3)))
    assert torch.equal(adapter.logits(model, ids), expected)
    assert torch.equal(adapter.logits(model, ids, torch.ones_like(ids)), expected)
    assert adapter.vocab_size(model) == 11


def test_looking_for_the_vocabulary_leaves_the_model_as_it_was():
    model = Plain()
    assert TorchModuleAdapter().vocab_size(model) == 11
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("wrap", "message"), [(lambda logits: logits[0], r"shape \(3, 11\)"), (lambda logits: "no", "got str")]
)
def test_other_output_is_refused(wrap, message):
    with pytest.raises(InvalidInputError, match=message):
        TorchModuleAdapter().logits(Plain(wrap), torch.tensor([[1, 2, 3]]))


def test_masked_tokens_need_a_model_that_takes_a_mask():
    with pytest.raises(InvalidInputError, match="takes no `attention_mask`"):
        TorchModuleAdapter().logits(Plain(), torch.tensor([[1, 2]]), torch.tensor([[1, 0]]))


def test_a_huggingface_model():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    adapter = HuggingFaceAdapter()
    ids = torch.tensor([[1, 2, 3]])
    assert adapter.matches(model)
    assert not adapter.matches(Plain())
    assert torch.equal(adapter.logits(model, ids), model(input_ids=ids).logits)
    mask = torch.tensor([[0, 1, 1]])
    assert torch.equal(adapter.logits(model, ids, mask), model(input_ids=ids, attention_mask=mask).logits)
    assert adapter.vocab_size(model) == 31


def test_no_token_of_an_encoder_decoder_sees_a_later_one():
    config = transformers.T5Config(vocab_size=31, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config).eval()
    adapter = HuggingFaceAdapter()
    one, other = adapter.logits(model, torch.tensor([[1, 2, 3]])), adapter.logits(model, torch.tensor([[1, 2, 4]]))
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2], other[:, 2])


def test_the_adapters_import_neither_torch_nor_transformers():
    code = (
        "import sys, devinterp.models.adapters.huggingface, devinterp.models.adapters.torch_module as t;"
        "t.devinterp_model_adapters(); assert not {'torch', 'transformers'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
