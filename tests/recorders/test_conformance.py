"""The built-in recorders pass the conformance suite that third parties subclass, and wrong ones do not."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from devinterp.recorders import full_loss, logits, sketch, weight_norms
from devinterp.testing import RecorderTests
from devinterp.types import Recorder, Recording


class TestLogits(RecorderTests):
    recorder = logits.devinterp_recorders()[0]
    settings: ClassVar = {"top_k": 3}


class TestCountSketch(RecorderTests):
    recorder = sketch.devinterp_recorders()[0]
    settings: ClassVar = {"size": 6}


class TestWeightNorms(RecorderTests):
    recorder = weight_norms.devinterp_recorders()[0]


class TestFullLoss(RecorderTests):
    recorder = full_loss.devinterp_recorders()[0]


def suite(record: Any) -> RecorderTests:
    class Suite(RecorderTests):
        recorder = Recorder("wrong", lambda run: Recording(record, dims={"value": ()}))

    return Suite()


def test_a_recorder_that_changes_the_model_fails_the_suite() -> None:
    def record(snapshot: Any) -> Any:
        snapshot.model.mix.bias.detach().add_(1e-3)
        return {"value": snapshot.model.mix.bias.sum()}

    with pytest.raises(AssertionError, match="recording changed"):
        suite(record).test_changes_nothing_else()


def test_a_recorder_that_is_never_the_same_fails_the_suite() -> None:
    calls = []

    def record(snapshot: Any) -> Any:
        calls.append(None)
        return {"value": torch.tensor(float(len(calls)))}

    with pytest.raises(AssertionError, match="value"):
        suite(record).test_gives_the_same_again()
