"""A run that was interrupted and goes on equals one that was not, array for array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zarr.storage import LocalStore

import devinterp
from devinterp import plugins
from devinterp.sampling.chains.checkpointing import TimeBudget
from devinterp.store import keys as raw
from support.small_models import make, same_numbers
from support.small_runs import Countdown, Ended, counting, crash, run


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a state after every step, so that what is tested does not depend on how fast this machine is."""
    usual = TimeBudget.is_due
    monkeypatch.setattr(TimeBudget, "is_due", lambda self, *, last: usual(self, last=True) if last else True)


def interrupted_often(path: Path, model: Any, **settings: Any) -> int:
    """Run with crashes until the end; return how many there were. `model` makes a model that crashes after so many steps."""
    ended, after = 0, 8
    while True:
        try:
            run(path, model(after), **settings)
            return ended
        except Ended:
            ended += 1
            after += 3


@pytest.mark.parametrize("chains", [pytest.param("sequential", marks=pytest.mark.heavy), "vectorized"])
@pytest.mark.parametrize(
    "kernel",
    [
        name if name == "rmsprop_baoab" else pytest.param(name, marks=pytest.mark.slow)
        for name in sorted(plugins.kernels())
    ],
)
def test_crashes_at_many_steps(tmp_path: Path, kernel: str, chains: str) -> None:
    settings = {"sampling_method": kernel, "chains": chains, "num_draws": 8}
    path = tmp_path / "run.zarr"
    assert interrupted_often(path, lambda after: counting(after, crash), **settings) >= 2
    same_numbers(run(**settings), devinterp.open(path).load())
    assert not (path / "resume").exists()
    assert not (path / "lock").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("record", [pytest.param("sequence", marks=pytest.mark.slow), "moments"])
def test_what_is_gathered_on_the_way(tmp_path: Path, record: str) -> None:
    settings = {"record": record, "num_draws": 8}
    assert interrupted_often(tmp_path / "run.zarr", lambda after: counting(after, crash), **settings) >= 2
    same_numbers(run(**settings), devinterp.open(tmp_path / "run.zarr").load())


@pytest.mark.heavy
@pytest.mark.parametrize("keep_state", [pytest.param(False, marks=pytest.mark.slow), True])
def test_more_draws_for_running_moments(tmp_path: Path, keep_state: bool) -> None:
    settings = {"record": "moments", "keep_state": keep_state}
    run(tmp_path / "run.zarr", num_draws=4, **settings)
    same_numbers(run(tmp_path / "run.zarr", num_draws=9, **settings).load(), run(num_draws=9, **settings))


class Dropping(Countdown):
    """With dropout and batch norm, in train mode: random numbers and buffers are part of the state, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(6), nn.Dropout(0.3)

    def forward(self, ids: Tensor) -> Tensor:
        self.count(len(ids))
        hidden = self.norm(self.mix(self.embed(ids)).transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(torch.tanh(hidden)))


def dropping(after: int) -> Dropping:
    model = make(Dropping).train()
    assert isinstance(model, Dropping)
    model.at, model.action = after, crash
    return model


@pytest.mark.heavy
def test_a_model_in_train_mode(tmp_path: Path) -> None:
    assert interrupted_often(tmp_path / "run.zarr", dropping) >= 2
    same_numbers(run(None, dropping(-1)), devinterp.open(tmp_path / "run.zarr").load())


@pytest.mark.heavy
def test_half_precision_with_float32_masters(tmp_path: Path) -> None:
    def half(after: int) -> nn.Module:
        return counting(after, crash).to(torch.bfloat16)

    assert interrupted_often(tmp_path / "run.zarr", half) >= 2
    same_numbers(run(None, half(-1)), devinterp.open(tmp_path / "run.zarr").load())


@pytest.mark.heavy
def test_states_are_used(tmp_path: Path) -> None:
    """No more steps are taken again than lie between two states."""
    model = counting(40, crash)
    with pytest.raises(Ended):
        run(tmp_path / "run.zarr", model, num_draws=20)
    saved = max(
        raw.get_attrs(LocalStore(tmp_path / "run.zarr"), slot)["step"] or 0
        for slot in ("resume/r0-c0/slot0", "resume/r0-c0/slot1")
    )
    # The latest may not have been written when the run ended; the last but one was.
    assert 38 <= saved < 40
    again = counting()
    run(tmp_path / "run.zarr", again, num_draws=20)
    assert again.taken == 4 * 43 - saved


@pytest.mark.heavy
@pytest.mark.parametrize("record", ["token", pytest.param("moments", marks=pytest.mark.slow)])
def test_restrictions_side_by_side(tmp_path: Path, record: str) -> None:
    """Their chains have one state together."""
    rows = torch.arange(6)[:, None].expand(6, 6) // 2
    heads = {f"h{n}": {"mix.weight": rows == n} for n in range(3)}
    settings = {"weight_restrictions": heads, "chains": "vectorized", "num_draws": 8, "record": record}
    assert interrupted_often(tmp_path / "run.zarr", lambda after: counting(after, crash), **settings) >= 2
    same_numbers(run(**settings), devinterp.open(tmp_path / "run.zarr").load())
