"""What a run would cost, against what it then costs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from devinterp.sampling.estimate import DryRun
from devinterp.slt.sampling import sample


@pytest.mark.heavy
@pytest.mark.parametrize("record", ["token", pytest.param("sequence", marks=pytest.mark.slow), "moments"])
def test_bytes_within_two_percent(tmp_path: Path, record: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(211, 8), nn.Linear(8, 211)).eval()
    data = torch.randint(211, (96, 65))
    path = tmp_path / "run.zarr"
    arguments = {
        "lr": 1e-3,
        "n_beta": 10.0,
        "num_draws": 60,
        "num_burnin_steps": 5,
        "num_chains": 2,
        "batch_size": 16,
        "weight_restrictions": {"full": None, "embedding": {"0.weight": None}},
        "save_metrics": True,
        "record": record,
        "output_path": path,
    }
    before = [p.detach().clone() for p in model.parameters()]
    planned = sample(model, data, {"a": (data, 2), "b": (data, 1)}, dry_run=True, **arguments)
    assert isinstance(planned, DryRun)
    assert not path.exists()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    sample(model, data, {"a": (data, 2), "b": (data, 1)}, **arguments)
    written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert planned.num_bytes == pytest.approx(written, rel=0.02)


def test_passes_through_the_model_are_counted() -> None:
    torch.manual_seed(0)
    calls = {"gradient": 0, "evaluation": 0}

    def counted(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        calls["gradient" if torch.is_grad_enabled() else "evaluation"] += 1
        return nn.functional.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")

    model = nn.Sequential(nn.Embedding(23, 4), nn.Linear(4, 23)).eval()
    data = torch.randint(23, (32, 9))
    arguments = {
        "lr": 1e-3,
        "n_beta": 10.0,
        "num_chains": 2,
        "num_draws": 6,
        "num_steps_bw_draws": 2,
        "batch_size": 4,
        "num_init_loss_batches": 3,
        "gradient_accumulation_steps": 2,
        "loss_fn": counted,
        "chains": "sequential",
    }
    planned = sample(model, data, {"a": (data, 2), "b": (data, 1)}, dry_run=True, **arguments)
    calls.update(gradient=0, evaluation=0)
    sample(model, data, {"a": (data, 2), "b": (data, 1)}, **arguments)
    assert planned.gradients == 2 * 12 * 2
    # On top of what is counted, a few rows try whether the loss depends on what moves, its shape, and constant layers.
    assert 0 <= calls["gradient"] - planned.gradients <= 2
    # The loss before the first step, observables at w0 and at every draw, and every row at w0 in batches of 4.
    assert planned.evaluations == 6 + 3 * (1 + 2 * 6) + 32 // 4
    assert 0 <= calls["evaluation"] - planned.evaluations <= 8


def test_it_prints_itself() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Embedding(23, 4), nn.Linear(4, 23)).eval(), torch.randint(23, (64, 9))
    planned = sample(model, data, {"a": (data, 1)}, lr=1e-3, n_beta=1.0, num_chains=2, num_draws=4, dry_run=True)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(planned)
    text = console.export_text()
    assert "observables/a/loss" in text
    assert f"{planned.num_bytes:,}" in text
    assert "gradients" in text
