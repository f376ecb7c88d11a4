"""What the built-in recorders compute, against plain torch, closed forms and Monte Carlo errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.recorders.sketch import CountSketch, RandomProjection
from devinterp.sampling.recorded_data import Data
from support.small_models import ids, make, run

ALL: dict[str, Any] = {
    "leading": {"recorder": "logits", "top_k": 3, "num_sequences": 5},
    "projected": {"recorder": "logits", "projection": 4},
    "sketch": {"size": 8},
    "projection": {"recorder": "sketch", "size": 8, "method": "projection"},
    "weight_norms": None,
    "full_loss": None,
}


def test_every_recorder_at_the_initial_weights_and_at_a_draw() -> None:
    """One step of gradient descent, so that the weights of the draw are known."""
    tree = run(recorders=ALL, num_chains=1, num_draws=1, noise_level=0.0, lr=0.1)
    group = tree["recordings"]
    model = make()
    batch = ids()[tree["trace/sequence_id"].values[0, 0]]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def losses(tokens: Tensor) -> Tensor:
        logits = model(tokens)[:, :-1]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")

    def check(prefix: str, take: Any) -> None:
        with torch.no_grad():
            logits = model(ids())
            np.testing.assert_allclose(take(group[f"full_loss/{prefix}loss"]), losses(ids()).mean(), rtol=1e-6)
        leading = torch.as_tensor(group["leading/vocabulary_id"].values)
        expected = logits[:5].gather(-1, leading)
        np.testing.assert_allclose(take(group[f"leading/{prefix}logits"]), expected, rtol=1e-4, atol=1e-5)
        normalizer = take(group[f"leading/{prefix}log_normalizer"])
        np.testing.assert_allclose(normalizer, logits[:5].logsumexp(-1), rtol=1e-5)
        for module, norm, distance in zip(
            group["weight_norms/module"].values,
            take(group[f"weight_norms/{prefix}norm"]),
            take(group[f"weight_norms/{prefix}distance"]),
            strict=True,
        ):
            own = [(n, p) for n, p in model.named_parameters() if n.startswith(f"{module}.")]
            assert norm == pytest.approx(float(sum(p.detach().square().sum() for _, p in own)) ** 0.5, rel=1e-5)
            moved = float(sum((p.detach() - before[n]).square().sum() for n, p in own)) ** 0.5
            assert distance == pytest.approx(moved, rel=1e-3, abs=1e-7)
        for name, sketch in (("sketch", CountSketch(8, 0)), ("projection", RandomProjection(8, 0))):
            parts = [sketch(n, (p.detach() - before[n]).flatten().double()) for n, p in model.named_parameters()]
            np.testing.assert_allclose(take(group[f"{name}/{prefix}sketch"]), sum(parts), rtol=1e-3, atol=1e-6)

    leading = torch.as_tensor(group["leading/vocabulary_id"].values)
    assert torch.equal(leading, model(ids())[:5].topk(3).indices)
    check("init_", lambda array: array.values)
    losses(batch).mean().backward()
    for parameter in model.parameters():
        displaced = parameter.detach() - 0.1 / 2 * 20.0 * parameter.grad
        parameter.data.copy_(displaced)
    check("", lambda array: array.values[0, 0, 0])


@pytest.mark.parametrize("kind", [CountSketch, RandomProjection])
def test_sketches_keep_inner_products(kind: type) -> None:
    """Over seeds the mean of s(x)·s(y) is x·y, with the variance that the module states."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, generator=generator, dtype=torch.float64) for _ in range(2))
    size, exact = 16, float(x @ y)
    products = []
    for seed in range(1500):
        sketch = kind(size, seed)
        sx, sy = (sketch("a", v[:40]) + sketch("b", v[40:]) for v in (x, y))
        products.append(float(sx @ sy))
    variance = float((x @ x) * (y @ y) + exact**2 - 2 * (x * x) @ (y * y)) / size
    values = np.array(products)
    assert abs(values.mean() - exact) < 4 * (variance / len(values)) ** 0.5
    # The error of a variance: from the fourth moment of these very numbers.
    fourth = ((values - values.mean()) ** 4).mean()
    assert abs(values.var(ddof=1) - variance) < 4 * ((fourth - variance**2) / len(values)) ** 0.5


def test_a_projection_of_logits_keeps_distances() -> None:
    """A relative standard error of sqrt(2 / m), for each of many places."""
    tree = run(recorders={"logits": {"projection": 400}}, num_chains=1, num_draws=1)
    projected = tree["recordings/logits/init_logits"].values.astype(np.float64)
    with torch.no_grad():
        logits = make()(ids())[:8].double()
    centred = (logits - logits.mean(-1, keepdim=True)).numpy()
    ratio = (projected**2).sum(-1) / (centred**2).sum(-1)
    assert np.abs(ratio - 1).max() < 5 * (2 / 400) ** 0.5


class Masked(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows of which the last tokens are padding."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        mask = torch.arange(9) < 5 + row % 4
        return {"input_ids": torch.where(mask, ids()[row], 0), "attention_mask": mask.long()}


class Attending(torch.nn.Module):
    """A model that takes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.inner(input_ids)


def test_padding_counts_nowhere() -> None:
    tree = run(Attending().eval(), Masked(), recorders=["full_loss", "logits"], num_chains=1, num_draws=1)
    rows = [Masked()[row] for row in range(12)]
    tokens, mask = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "attention_mask"))
    with torch.no_grad():
        logits = make()(tokens)[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    predicted = (mask[:, 1:] & mask[:, :-1]).bool()
    assert float(tree["recordings/full_loss/init_loss"]) == pytest.approx(float(losses[predicted].mean()), rel=1e-6)
    is_nan = np.isnan(tree["recordings/logits/init_log_normalizer"].values)
    np.testing.assert_array_equal(is_nan, ~mask[:8].bool().numpy())


def test_a_loss_of_ones_own_and_another_data_set() -> None:
    """Labels of -100 and a loss for each token, on data that the run does not sample."""
    labels = ids().clone()
    labels[:, :4] = -100
    other = {"input_ids": ids().flip(1), "labels": labels.flip(1)}

    def loss_fn(model: Any, batch: Any) -> Tensor:
        logits = model(batch["input_ids"])[:, :-1]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")

    data = {"input_ids": ids(), "labels": labels}
    tree = run(dataset=data, loss_fn=loss_fn, recorders={"full_loss": {"dataset": other}}, num_chains=1, num_draws=1)
    with torch.no_grad():
        losses = loss_fn(make(), other)
    expected = losses[other["labels"][:, 1:] != -100].mean()
    assert float(tree["recordings/full_loss/init_loss"]) == pytest.approx(float(expected), rel=1e-6)


def test_losses_that_are_no_numbers_are_infinite_and_not_masked() -> None:
    """Else a model that has diverged would get the mean over what is left."""
    from devinterp.sampling.data.rows import Rows
    from devinterp.sampling.losses.loss import CustomLoss

    def loss_fn(model: Any, batch: Tensor) -> Tensor:
        return torch.where(batch == 2, torch.nan, batch.float())

    rows = Rows(torch.arange(6.0), np.arange(6), counted=torch.arange(6) != 4)
    data = Data(rows, CustomLoss(loss_fn), 4, None, "full_loss")
    losses = torch.cat(list(data.losses(torch.nn.Linear(1, 1))))
    assert losses.isnan().nonzero().flatten().tolist() == [4]
    assert losses.isinf().nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(
    ("recorders", "message"),
    [
        ("skech", "did you mean 'sketch'"),
        ({"sketch": {"sizes": 3}}, r"settings \['sizes'\] do not fit 'sketch'"),
        ({"sketch": {"size": 0}}, "`size` .=0. must be a whole number"),
        ({"sketch": {"method": "fft"}}, "must be one of count, projection"),
        ({"sketch": 3}, "must be a dict of settings"),
        (["sketch", "sketch"], "names 'sketch' twice"),
        ({"logits": {"top_k": 2, "projection": 2}}, "pass only one"),
        ({"logits": {"num_sequences": 99}}, "asks for 99 rows; its data set has 24"),
        ({"a/b": {"recorder": "sketch"}}, "recorder name 'a/b' cannot name a group"),
    ],
)
def test_what_cannot_be_recorded(recorders: Any, message: str, tmp_path: Any) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run(recorders=recorders, output_path=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


def test_logits_need_token_ids() -> None:
    def loss_fn(model: Any, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean(1)

    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidInputError, match="needs token ids"):
        run(torch.nn.Linear(3, 1), (inputs, inputs[:, :1]), loss_fn=loss_fn, recorders="logits")
