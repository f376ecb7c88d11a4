"""Train mode without anything random in it is eval mode; what is not is told apart, and said once."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from devinterp.errors import InvalidInputError
from support.engines import paths_of
from support.small_models import Deep, Layer, TinyModel, deep, ids, run, same_numbers, snapshot

LAST = {"layers.2.mix.weight": None}


class Dropping(Deep):
    """With dropout behind the layers."""

    probability = 0.0

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(self.probability)

    def body(self, hidden):
        return self.drop(super().body(hidden))


class DroppingABit(Dropping):
    probability = 0.1


class DroppingByFunction(Deep):
    """Dropout that is no module, and now and then does nothing."""

    def body(self, hidden):
        return nn.functional.dropout(super().body(hidden), 1e-6, self.training)


class Skipping(Deep):
    """Leaves out layers at random, as LayerDrop does: hardly ever."""

    def body(self, hidden):
        return super().body(hidden) if not self.training or torch.rand(()) > 1e-6 else hidden


class Normalising(Deep):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def body(self, hidden):
        return self.norm(super().body(hidden).transpose(1, 2)).transpose(1, 2)


class Averaging(Deep):
    """Keeps a running mean of a kind that no module of torch has."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def body(self, hidden):
        if self.training:
            self.mean.lerp_(hidden.mean((0, 1)), 0.01)
        return super().body(hidden)


class Replacing(Averaging):
    """Puts another tensor in the place of a buffer."""

    def body(self, hidden):
        self.mean = self.mean + 1
        return Deep.body(self, hidden)


class Remembering(Deep):
    """Depends on what it saw before, which is no buffer."""

    calls = 0

    def body(self, hidden):
        self.calls += self.training
        return super().body(hidden) * (1 + 0.01 * self.calls)


class Scaling(Deep):
    """Does something else in train mode, and the same every time."""

    class Block(Layer):
        def forward(self, hidden):
            return super().forward(hidden) * (0.9 if self.training else 1)


@pytest.mark.parametrize("kind", [Deep, Dropping])
def test_without_anything_random_it_is_eval_mode(kind):
    expected = run(deep(kind), param_masks=LAST, save_metrics=["distance", "mala_acceptance"])
    model = deep(kind).train()
    before = snapshot(model)
    tree = run(model, param_masks=LAST, save_metrics=["distance", "mala_acceptance"])
    assert snapshot(model) == before
    assert paths_of(tree) == paths_of(expected)
    assert paths_of(tree)["prefix/custom"] == "2 layers reused"
    same_numbers(tree, expected)


def test_of_one_module_in_train_mode():
    model = deep(DroppingABit)
    model.layers.train()  # dropout is not among them
    assert paths_of(run(model, param_masks=LAST))["prefix/custom"] == "2 layers reused"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (DroppingABit, "dropout is active ('drop' drops 0.1 of its input)"),
        (DroppingByFunction, "it draws random numbers"),
        (Skipping, "it draws random numbers"),
        (Normalising, "batch statistics are used ('norm')"),
        (Averaging, "a forward pass changes its buffer 'mean'"),
        (Replacing, "a forward pass changes its buffer 'mean'"),
        (Remembering, "the same batch gives other losses the second time"),
        (Scaling, "losses differ by "),
    ],
)
def test_what_differs_is_told_apart_and_said_once(kind, reason, caplog):
    model = deep(kind).train()
    before = snapshot(model)
    restrictions = {"last": LAST, "bias": {"layers.2.mix.bias": None}, "head": {"head.weight": None}}
    with caplog.at_level(logging.WARNING, logger="devinterp"):
        tree = run(model, weight_restrictions=restrictions)
    assert snapshot(model) == before
    for name in restrictions:
        assert paths_of(tree)[f"prefix/{name}"].startswith(f"nothing reused: in train mode {reason}")
    said = [record.getMessage() for record in caplog.records if "layers below" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"layers below 'last' are computed anew at every step: in train mode {reason}")


def test_acceptance_needs_what_eval_mode_gives():
    with pytest.raises(InvalidInputError, match="in train mode losses differ by .*call `model.eval"):
        run(deep(Scaling).train(), save_metrics=["mala_acceptance"])


def test_losses_come_in_chunks_with_dropout_too():
    assert paths_of(run(deep(DroppingABit).train()))["loss"] == "chunked"


class Reshaping(TinyModel):
    """Weights act behind the unembedding."""

    def forward(self, ids):
        return super().forward(ids) * self.embed.weight[0, 0]


def test_a_loss_that_needs_all_logits_is_said_and_chains_only_as_information(caplog):
    with caplog.at_level(logging.INFO, logger="devinterp"):
        run(Reshaping().eval(), chains="sequential")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("losses are computed from all logits rather than in chunks: ")


def test_nothing_is_said_where_every_fast_path_is_taken(caplog):
    with caplog.at_level(logging.INFO, logger="devinterp"):
        run(deep(), param_masks=LAST)
    assert not caplog.records


@pytest.mark.heavy
def test_workers_say_it_too(caplog, tmp_path):
    with caplog.at_level(logging.WARNING, logger="devinterp"):
        run(torch_dropping(), param_masks=LAST, workers=1, output_path=tmp_path / "run.zarr")
    assert [r.getMessage()[:29] for r in caplog.records] == ["layers below 'custom' are com"]


def torch_dropping() -> nn.Module:
    """Return a model in train mode with dropout that other processes know."""
    return deep(DroppingABit).train()


def test_bars_show_it(capsys):
    run(deep(DroppingABit).train(), ids(), param_masks=LAST, progress=True)
    assert "are computed anew at every step" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("kind", [DroppingABit, Averaging])
def test_steps_that_are_taken_again_are_the_same(kind, tmp_path):
    """Without a saved state: what evaluations drew at random, or changed, is part of what came after."""
    options = {"observables": {"code": ids("code")}, "paired": False}
    run(deep(kind).train(), **options, num_draws=3, output_path=tmp_path / "run.zarr")
    longer = run(deep(kind).train(), **options, num_draws=6, output_path=tmp_path / "run.zarr")
    same_numbers(longer.load(), run(deep(kind).train(), **options, num_draws=6))
