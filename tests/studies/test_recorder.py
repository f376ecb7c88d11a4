"""Recording while training: the study that the checkpoints would give, and training as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from devinterp import TrainingRecorder, study
from devinterp.errors import FailedRunsWarning, InvalidInputError
from devinterp.studies import evenly_spaced, log_spaced, union
from support.small_models import SHORT, Noisy, ids, same_numbers, tensor_bytes

SETTINGS: dict[str, Any] = {**SHORT, "num_draws": 3}
STEPS = (0, 1, 4)


def train(recorder: Any, *, num_steps: int = 5, keep: dict[int, Any] | None = None) -> tuple[nn.Module, Any]:
    """Train a model with dropout and batch norm in half a training loop's usual ways; call a function before each step."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002  # what a training loop uses
    model = Noisy().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = ids()
    for step in range(num_steps):
        if step % 2 == 0:  # gradients are accumulated over two steps
            optimizer.zero_grad()
        if keep is not None and step in STEPS:
            keep[step] = {name: value.clone() for name, value in model.state_dict().items()}
        recorder(model, step)
        rows = data[torch.randperm(len(data))[: random.randint(4, 8)]]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(rows)
        noise = float(np.random.normal())  # noqa: NPY002
        loss = cross_entropy(logits[:, :-1].float().transpose(1, 2), rows[:, 1:]) * (1 + 0.01 * noise)
        loss.backward()
        optimizer.step()
    return model, optimizer.state_dict()


def all_bytes(model: nn.Module, state: Any) -> Any:
    gradients = [None if p.grad is None else tensor_bytes(p.grad) for p in model.parameters()]
    moments = [tensor_bytes(v) for s in state["state"].values() for v in s.values() if isinstance(v, Tensor)]
    weights = {name: tensor_bytes(value) for name, value in model.state_dict().items()}
    return weights, gradients, moments, torch.get_rng_state().tolist(), [m.training for m in model.modules()]


def test_training_ends_in_equal_weights_and_the_study_is_that_of_its_checkpoints(tmp_path: Path) -> None:
    kept: dict[int, Any] = {}
    expected = all_bytes(*train(lambda model, step: None, keep=kept))
    recorder = TrainingRecorder(ids(), output_path=tmp_path / "study", steps=STEPS, labels={"seed": 3}, **SETTINGS)
    assert all_bytes(*train(recorder.checkpoint)) == expected
    tree = recorder.finish()
    assert list(tree.children) == [f"checkpoint={step},seed=3" for step in STEPS]
    again = study(kept, ids(), architecture=Noisy().eval(), **SETTINGS)
    for step in STEPS:
        same_numbers(tree[f"checkpoint={step},seed=3"].copy().load(), again[f"checkpoint={step}"].copy())
    assert tree.slt.llc()["llc_mean"].dims == ("checkpoint", "seed")

    # A training run that starts over adds nothing; another one adds its own.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("c/*") if path.is_file()}
    recorder = TrainingRecorder(ids(), output_path=tmp_path / "study", steps=STEPS, labels={"seed": 3}, **SETTINGS)
    assert all_bytes(*train(recorder.checkpoint)) == expected
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("c/*") if path.is_file()}
    other = TrainingRecorder(ids(), output_path=tmp_path / "study", steps=STEPS, labels={"seed": 4}, **SETTINGS)
    train(other.checkpoint, num_steps=2)
    assert len(other.finish().children) == 5


def test_what_fails_does_not_end_training(tmp_path: Path) -> None:
    expected = all_bytes(*train(lambda model, step: None))
    recorder = TrainingRecorder(ids(), output_path=tmp_path / "study", steps=[1], param_masks="l7h1", **SETTINGS)
    with pytest.warns(FailedRunsWarning, match=r"no run of step 1 was recorded: InvalidInputError"):
        assert all_bytes(*train(recorder.checkpoint)) == expected
    # Other weights at a step that is recorded are another training run.
    good = TrainingRecorder(ids(), output_path=tmp_path / "other", **SETTINGS)
    model = Noisy()
    assert good.checkpoint(model, 7)
    with torch.no_grad():
        model.head.bias.add_(1)
    with pytest.warns(
        FailedRunsWarning, match=r"step 7 was recorded: StoreMismatchError.*(?s:.*)weights: the store has"
    ):
        assert not good.checkpoint(model, 7)
    with pytest.raises(
        InvalidInputError, match="is a study over checkpoint, and this recorder is over checkpoint, seed"
    ):
        TrainingRecorder(ids(), output_path=tmp_path / "other", labels={"seed": 1}, **SETTINGS)
    with pytest.raises(InvalidInputError, match="must be positive"):
        TrainingRecorder(ids(), output_path=tmp_path / "third", **{**SETTINGS, "lr": -1.0})


def test_with_a_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    plain = _trained(transformers, tmp_path / "0", None)
    assert _trained(transformers, tmp_path / "1", tmp_path / "study") == plain
    tree = TrainingRecorder(ids(), output_path=tmp_path / "study", **SETTINGS).finish()
    assert tree.slt.llc()["checkpoint"].values.tolist() == [0, 2, 3]


def _trained(transformers: Any, folder: Path, path: Path | None) -> dict[str, bytes]:
    """Train a small model with a trainer, recording into a study where there is a path for it."""
    transformers.set_seed(5)
    config = transformers.GPTNeoXConfig(
        vocab_size=23,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_dropout=0.2,
    )
    model = transformers.GPTNeoXForCausalLM(config)
    rows = [{"input_ids": row, "labels": row} for row in ids()]
    options = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True,
        save_strategy="no", seed=5,
    )  # fmt: skip
    callbacks = []
    if path is not None:
        recorder = TrainingRecorder(ids(), output_path=path, steps=lambda step: step != 1, **SETTINGS)
        callbacks = [recorder.trainer_callback()]
    transformers.Trainer(model, options, train_dataset=rows, callbacks=callbacks).train()
    return {name: tensor_bytes(value) for name, value in model.state_dict().items()}


def test_schedules() -> None:
    assert evenly_spaced(10, 4) == [0, 4, 8, 10]
    assert log_spaced(100, 5) == [0, 1, 3, 10, 32, 100]
    assert log_spaced(4, 10, with_zero=False) == [1, 2, 3, 4]
    assert union(log_spaced(8, 4), [5, 8], range(2)) == [0, 1, 2, 4, 5, 8]
    for call in (lambda: evenly_spaced(3, 0), lambda: log_spaced(0, 2), lambda: log_spaced(4, 1), lambda: union([-1])):
        with pytest.raises(InvalidInputError):
            call()
