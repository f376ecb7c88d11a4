"""Conformance tests of model adapters; subclass them for your own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from devinterp.models.masks import difference, union
from devinterp.models.structure import Attention
from devinterp.types import ModelAdapter


class ModelAdapterTests:
    """Tests of a `ModelAdapter`, run by pytest on a subclass that names the adapter and makes a small model.

    For example::

        class TestMyAdapter(ModelAdapterTests):
            adapter = MyAdapter()

            def model(self):
                return MyModel(num_layers=2)

    Heads are checked by gradients: with the output columns of all other heads at zero, the logits must depend on the
    weights of no other head. For a model whose heads are coupled by a norm over all of them, set `coupled_heads`.
    """

    #: The adapter under test.
    adapter: ClassVar[ModelAdapter]
    #: Whether the result of a head depends on other heads, for example by a norm over all heads.
    coupled_heads: ClassVar[bool] = False

    def model(self) -> nn.Module:
        """Return a small model with random weights."""
        raise NotImplementedError("return a small model that the adapter matches")

    def input_ids(self) -> Tensor:
        """Return token ids of shape ``(batch, token)``; at least two sequences of three tokens."""
        return torch.tensor([[1, 2, 3, 1, 2], [3, 1, 2, 2, 1]])

    def test_it_matches_its_model_and_not_any_other(self) -> None:
        """The adapter matches its model, and, unless it is a fallback, not a plain linear module."""
        assert self.adapter.matches(self.model())
        if not self.adapter.fallback:
            assert not self.adapter.matches(nn.Linear(2, 2))

    def test_logits_have_a_row_per_token_and_see_no_later_token(self) -> None:
        """Logits are ``(batch, token, vocabulary)``, the same twice, and depend on no later token."""
        model, ids = self.model().eval(), self.input_ids()
        logits = self.adapter.logits(model, ids)
        assert logits.ndim == 3
        assert logits.shape[:2] == ids.shape
        assert torch.equal(logits, self.adapter.logits(model, ids))
        later = ids.clone()
        later[:, -1] = (later[:, -1] + 1) % int(ids.max())
        torch.testing.assert_close(self.adapter.logits(model, later)[:, :-1], logits[:, :-1])
        size = self.adapter.vocab_size(model)
        assert size is None or int(ids.max()) < size <= logits.shape[-1]

    def test_the_structure_covers_the_model(self) -> None:
        """Masks fit their parameters and are not empty; attn, mlp and norm are disjoint; every parameter has a mask."""
        model = self.model()
        structure, parameters = self.adapter.structure(model), dict(model.named_parameters())
        parts = [structure.embed, structure.unembed, structure.other]
        for _, _, layer in structure:
            kinds = (layer.attn, layer.mlp, layer.norm)
            assert sum(map(len, kinds)) == len({name for kind in kinds for name in kind}), f"{layer.name} overlaps"
            parts += [*kinds, *(head.masks for kind in ("self", "cross") for head in layer.heads(kind))]
        for part in parts:
            for name, mask in part.items():
                assert mask.shape == parameters[name].shape, name
                assert not mask.is_empty, name
        assert {name for part in parts for name in part} == set(parameters)

    def test_heads_depend_on_no_other_head(self) -> None:
        """With the output columns of the other heads at zero, the logits depend on none of their other weights."""
        model = self.model().eval()
        for _, _, layer in self.adapter.structure(model):
            for attention in layer.attentions:
                for index in range(0 if self.coupled_heads else len(attention.heads)):
                    self._check_head(model, attention, index)

    def _check_head(self, model: nn.Module, attention: Attention, index: int) -> None:
        parameters, mine = dict(model.named_parameters()), attention.heads[index]
        of_heads = union(head.masks for head in attention.heads)
        foreign, names = difference(of_heads, mine.masks), [name for name in of_heads if name not in mine.parts["o"]]
        saved = {name: parameters[name].detach().clone() for name in mine.parts["o"]}
        with torch.no_grad():
            for name, mask in mine.parts["o"].items():
                parameters[name].mul_(mask.to_bool())
        loss = self.adapter.logits(model, self.input_ids()).square().sum()
        grads = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
        for name, grad in zip(names, grads, strict=True):
            if grad is not None and name in foreign:
                reached = bool((grad[foreign[name].to_bool()] != 0).any())
                assert not reached, f"head {index} of {attention.name} depends on weights of others: {name}"
