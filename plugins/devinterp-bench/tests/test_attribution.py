"""``devinterp bench attribution``: scores against exact influence functions, the bank against interruption."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy

from devinterp.cli import run as devinterp
from devinterp.errors import InvalidInputError, MissingPackageError
from devinterp_bench.attribution import bank as banks
from devinterp_bench.attribution import table
from devinterp_bench.attribution.bank import Retraining, bank, train
from devinterp_bench.attribution.baselines import ekfac_scores, feature_similarity, trak_scores
from devinterp_bench.attribution.bif_scores import bif_scores
from devinterp_bench.attribution.compare import methods
from devinterp_bench.attribution.shapes import SHAPES, Posterior, Rows, Shape, Training, Transformer, row_losses, texts

# Of imports within torch, by the packages of other methods.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

QUIET = Console(quiet=True)
HOW = Retraining(num_subsets=6, num_seeds=2)


def blobs() -> tuple[Rows, Rows]:
    """Return points of three overlapping clusters, of which one coordinate says nothing."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (90,), generator=generator)
    points = torch.randn(90, 4, generator=generator) + 1.5 * torch.eye(4)[classes]
    return (points[:60], classes[:60]), (points[60:], classes[60:])


TINY = Shape(
    name="tiny, blobs",
    model=lambda: nn.Sequential(nn.Linear(4, 3)),
    data=blobs,
    training=Training(num_steps=300, batch_size=60, lr=0.05, decay=1e-2),
    posterior=Posterior(
        lr={"baoab": 3e-2},
        localization=0.0,
        batch_size=30,
        num_chains=8,
        num_draws=400,
        num_burnin_steps=200,
        num_steps_bw_draws=5,
    ),
    last_layer="0",
    trak_regularization=1e-4,
)
#: Is trained a little only.
BRIEF = replace(TINY, training=replace(TINY.training, num_steps=20))
DEEP = replace(
    BRIEF,
    name="deep, blobs",
    model=lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    posterior=replace(TINY.posterior, num_draws=20, num_burnin_steps=20),
    last_layer="2",
)


def trained(shape: Shape) -> tuple[nn.Module, Rows, Rows]:
    candidates, queries = shape.data()
    return train(shape, candidates, np.arange(len(candidates[0])), seed=0), candidates, queries


def exact_influence(model: nn.Module, candidates: Rows, queries: Rows) -> np.ndarray:
    """Return products of gradients with the inverse of the Hessian of the training objective in between."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    names, sizes = list(weights), [value.numel() for value in weights.values()]

    def loss(flat: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, flat.split(sizes), strict=True))
        shaped = {name: parts[name].view_as(weights[name]) for name in names}
        return cross_entropy(torch.func.functional_call(model, shaped, (inputs,)), labels)

    flat = torch.cat([value.flatten() for value in weights.values()])
    hessian = torch.func.jacrev(torch.func.grad(loss))(flat, *candidates) + TINY.training.decay * torch.eye(len(flat))
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    of_queries, of_candidates = (gradients(flat, rows[0][:, None], rows[1][:, None]) for rows in (queries, candidates))
    return (of_queries @ torch.linalg.solve(hessian, of_candidates.T)).numpy()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("method", "least"),
    [(bif_scores, 0.9), pytest.param(ekfac_scores, 0.9, marks=pytest.mark.slow), (trak_scores, 0.6)],
)
def test_scores_are_near_those_of_exact_influence_functions(method, least):
    """Of a convex model: rows and columns in their order, the sign such that what helps is positive."""
    model, candidates, queries = trained(TINY)
    exact, scores = exact_influence(model, candidates, queries), method(TINY, model, candidates, queries)
    assert scores.shape == (30, 60)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(exact, scores, strict=True)]
    assert np.mean(correlations) > least
    # Of other rows of queries the same numbers would be far from these.
    shuffled = [np.corrcoef(a, b)[0, 1] for a, b in zip(exact, np.roll(scores, 7, axis=0), strict=True)]
    assert np.mean(shuffled) < least - 0.3


def test_likeness_is_the_cosine_of_what_the_last_layer_reads():
    model, candidates, queries = trained(TINY)
    expected = torch.cosine_similarity(queries[0][:, None], candidates[0][None], dim=-1)
    np.testing.assert_allclose(feature_similarity(TINY, model, candidates, queries), expected, rtol=1e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("score", [trak_scores, ekfac_scores, feature_similarity])
def test_text_has_a_score_for_each_sequence(score):
    shape = replace(SHAPES[-1], data=lambda: texts(12, 5, length=8))
    candidates, queries = shape.data()
    torch.manual_seed(0)
    scores = score(shape, Transformer(width=8, num_heads=2, length=8), candidates, queries)
    assert scores.shape == (5, 12)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores.round(12))) > 50


def test_a_subset_alone_decides_what_its_models_are():
    (inputs, labels), queries = TINY.data()
    chosen = np.arange(30)

    def losses(rows: Rows) -> torch.Tensor:
        return row_losses(train(BRIEF, rows, chosen, seed=3), queries).detach()

    before, beyond, within = losses((inputs, labels)), labels.clone(), labels.clone()
    beyond[30:] = (beyond[30:] + 1) % 3
    within[:30] = (within[:30] + 1) % 3
    assert torch.equal(losses((inputs, beyond)), before)
    assert not torch.allclose(losses((inputs, within)), before, atol=0.1)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(DEEP, TINY.data()[0], np.arange(30), seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_a_bank_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = bank(BRIEF, HOW, None, QUIET)
    assert np.isfinite(whole["losses"]).all()
    assert (whole["membership"].sum("candidate") == 30).all()
    assert len(np.unique(whole["losses"].values.round(6), axis=None)) > 6 * 2 * 15  # no two models are the same

    path, seeds = tmp_path / "bank.zarr", []

    def interrupted(shape: Shape, candidates: Rows, chosen: np.ndarray, seed: int) -> nn.Module:
        if len(seeds) == 7:  # in the fourth subset
            raise KeyboardInterrupt
        seeds.append(seed)
        return train(shape, candidates, chosen, seed)

    monkeypatch.setattr(banks, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bank(BRIEF, HOW, path, QUIET)
    again: list[int] = []

    def counted(shape: Shape, candidates: Rows, chosen: np.ndarray, seed: int) -> nn.Module:
        again.append(seed)
        return train(shape, candidates, chosen, seed)

    monkeypatch.setattr(banks, "train", counted)
    resumed = bank(BRIEF, HOW, path, QUIET)
    assert len(again) == 2 * 3
    assert len(set(seeds) | set(again)) == 12
    assert resumed.equals(whole)
    again.clear()
    assert bank(BRIEF, HOW, path, QUIET).equals(whole)
    assert again == []


def test_a_bank_of_other_models_is_refused(tmp_path: Path):
    path = tmp_path / "bank.zarr"
    bank(BRIEF, HOW, path, QUIET)
    for shape, how in ((BRIEF, replace(HOW, seed=1)), (TINY, HOW)):
        with pytest.raises(InvalidInputError, match=r"--bank.*trained otherwise"):
            bank(shape, how, path, QUIET)
    assert bank(DEEP, HOW, path, QUIET)["losses"].shape == (6, 2, 30)  # another shape is kept beside it


def test_the_last_layer_is_sampled_alone_where_there_is_another():
    assert not [name for name in methods(TINY) if "last layer" in name]
    assert [name for name in methods(DEEP) if "last layer" in name] == ["BIF, BAOAB, last layer"]
    assert {shape.name: len(methods(shape)) for shape in SHAPES}["MLP, digits"] == 7


@pytest.mark.heavy
def test_the_command_makes_the_bank_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(table, "SHAPES", (TINY, DEEP))
    out, page, store = tmp_path / "scores.json", tmp_path / "scores.md", tmp_path / "bank.zarr"
    command = ["bench", "attribution", "--quick", "--problem", "deep", "--bank", str(store)]
    assert devinterp([*command, "-o", str(out), "--table", str(page)]) == 0
    scores = json.loads(out.read_text())["scores"]
    assert {each["method"] for each in scores} == set(methods(DEEP))
    assert all(-1 <= each["lds"] <= 1 and each["lds_se"] > 0 and each["seconds_per_query"] > 0 for each in scores)
    assert "deep, blobs (ceiling" in page.read_text()
    assert store.exists()
    capsys.readouterr()
    assert devinterp(["bench", "attribution", "--problem", "nothing"]) != 0
    assert "tiny, blobs" in capsys.readouterr().err
    assert devinterp(["bench", "coverage", "--bank", str(store)]) != 0
    assert "`--bank`" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    model, candidates, queries = trained(TINY)
    for package, score in (("dattri", trak_scores), ("kronfluence", ekfac_scores)):
        for name in [each for each in sys.modules if each.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackageError, match=f"pip install .*{package}"):
            score(TINY, model, candidates, queries)
