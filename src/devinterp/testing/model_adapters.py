"""What every model adapter must hold to; subclass it for your own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from devinterp.models.structure.types import Structure
from devinterp.types import ModelAdapter


class ModelAdapterTests:
    """Tests of a `ModelAdapter`, run by pytest on a subclass that names it and makes a small model.

    As in::

        class TestMyAdapter(ModelAdapterTests):
            adapter = MyAdapter()

            def model(self):
                return MyModel(num_layers=2)

    Heads are proved by gradients: with the output columns of all other heads at zero, the logits depend on the weights of no
    other head. A model whose heads are coupled by a norm over all of them sets `coupled_heads`.
    """

    #: The adapter under test.
    adapter: ClassVar[ModelAdapter]
    #: Whether something beside the output projection couples the heads of an attention.
    coupled_heads: ClassVar[bool] = False

    def model(self) -> nn.Module:
        """Return a small model with random weights."""
        raise NotImplementedError("return a small model that the adapter matches")

    def input_ids(self) -> Tensor:
        """Return token ids of shape ``(batch, token)``; at least two sequences of three tokens."""
        return torch.tensor([[1, 2, 3, 1, 2], [3, 1, 2, 2, 1]])

    def test_it_matches_its_model_and_not_any_other(self) -> None:
        """It says yes to its model, and, unless it is a fallback, no to a module that it cannot know."""
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

    def test_the_unembedding_returns_the_logits(self) -> None:
        """Where an unembedding is named, it is a module of the model and its output is the logits."""
        model = self.model().eval()
        name = self.adapter.unembedding(model)
        if name is None:
            return
        seen: list[Tensor] = []
        hook = model.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output))
        logits = self.adapter.logits(model, self.input_ids())
        hook.remove()
        assert torch.equal(seen[-1], logits)

    def test_the_structure_covers_the_model(self) -> None:
        """Every mask is of a parameter and not empty; attn, mlp and norm are disjoint; together all weights are named."""
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
        model, adapter = self.model().eval(), self.adapter
        if not self.coupled_heads:
            for _, _, layer in adapter.structure(model):
                for attention in layer.attentions:
                    for index in range(len(attention.heads)):
                        self._check_head(model, adapter.structure(model), attention.name, index)

    def _check_head(self, model: nn.Module, structure: Structure, name: str, index: int) -> None:
        heads = next(a.heads for _, _, layer in structure for a in layer.attentions if a.name == name)
        parameters, mine = dict(model.named_parameters()), heads[index].masks
        saved = {n: parameters[n].detach().clone() for n in heads[index].parts["o"]}
        others = {n: m for head in heads for n, m in head.masks.items() if n not in saved}
        with torch.no_grad():
            for n, mask in heads[index].parts["o"].items():
                parameters[n].mul_(mask.to_bool())
        loss = self.adapter.logits(model, self.input_ids()).square().sum()
        grads = torch.autograd.grad(loss, [parameters[n] for n in others], allow_unused=True)
        with torch.no_grad():
            for n, value in saved.items():
                parameters[n].copy_(value)
        for n, grad in zip(others, grads, strict=True):
            if grad is None:
                continue
            foreign = torch.zeros(grad.shape, dtype=torch.bool)
            for head in heads:
                if n in head.masks:
                    foreign |= head.masks[n].to_bool()
            if n in mine:
                foreign &= ~mine[n].to_bool()
            assert not bool((grad[foreign] != 0).any()), f"head {index} of {name} depends on weights of others: {n}"
