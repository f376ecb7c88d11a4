"""On language models calibration recommends settings whose run is good, and refuses at the wrong place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import devinterp
from devinterp import CalibrationRefused, calibrate, sources
from devinterp.calibration.subject import Subject
from devinterp.tiny_model import tiny_model

SMALL: dict[str, Any] = {"batch_size": 8, "num_chains": 2, "progress": False, "max_gradients": 6000}
LENGTH = 32
#: Enough to find out that no setting will do.
WRONG: dict[str, Any] = {**SMALL, "n_beta": 100.0, "max_gradients": 3000}


def texts(tokenizer: Any, limit: int = 1024, length: int = LENGTH) -> torch.Tensor:
    data = sources.load_sequences(sources.PROSE, tokenizer, length=length, limit=limit)
    return torch.as_tensor(data.with_format("torch")["input_ids"][:])


def verdict(model: Any, data: torch.Tensor, settings: dict[str, Any], **others: Any) -> str:
    tree = devinterp.sample(model, data, progress=False, record="sequence", **settings, **others)
    return str(tree.slt.diagnose().attrs["verdict"])


@pytest.mark.slow
def test_a_language_model_that_is_trained_on_the_spot() -> None:
    model, tokenizer = tiny_model(length=LENGTH)
    data = texts(tokenizer)
    # Minibatches of 8 give a note, for `llc_mean` only: its error is then 2.6 times that of `paired_llc_mean` (limit 2).
    calibration = calibrate(model, data, **{**SMALL, "batch_size": 32})
    assert calibration.recommendation is not None
    assert calibration.recommendation.slope_se < 0.1  # from one run it is known to ± 3
    # The noise of shared minibatches would be more than half of the error.
    assert not calibration.settings["match_sampling_input_ids_across_chains"]
    assert verdict(model, data, calibration.settings) == "ok"


@pytest.mark.slow
def test_weights_that_were_moved_away() -> None:
    model, tokenizer = tiny_model(length=LENGTH)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=2.0 * float(parameter.abs().mean()))
    with pytest.raises(CalibrationRefused, match="lower than at w0|clearly below that at w0"):
        calibrate(model, texts(tokenizer), **WRONG)


@pytest.mark.slow
def test_a_network_that_was_not_trained() -> None:
    model, tokenizer = tiny_model(length=LENGTH, num_steps=0)
    with pytest.raises(CalibrationRefused, match="lower than at w0|clearly below that at w0"):
        calibrate(model, texts(tokenizer), **WRONG)


@pytest.mark.slow
def test_random_labels_with_a_step_that_is_too_large() -> None:
    model, tokenizer = tiny_model(length=LENGTH, num_steps=20)
    data = texts(tokenizer)
    random = torch.randint(int(data.max()) + 1, data.shape, generator=torch.Generator().manual_seed(1))
    with pytest.raises(CalibrationRefused, match="step_too_large"):
        calibrate(model, random, lr=0.1, **WRONG)


def late_layer(limit: int, length: int) -> tuple[Any, torch.Tensor, dict[str, Any]]:
    """Return SmolLM2, texts, and what calibration of its last MLP is given."""
    pytest.importorskip("gguf")
    model, tokenizer = sources.load_model()
    settings: dict[str, Any] = {
        "param_masks": "l29 mlp",
        "n_beta": 30.0,
        "batch_size": 2,
        "num_chains": 2,
        "progress": False,
        "max_gradients": limit,
        "error": 0.2,
    }
    return model, texts(tokenizer, limit=512, length=length), settings


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_within_a_budget_that_allows_strong_localization_only() -> None:
    model, data, settings = late_layer(limit=1000, length=LENGTH)
    with pytest.raises(CalibrationRefused, match="of what it rises at `n_beta` 0") as refused:
        calibrate(model, data, **settings)
    calibration = refused.value.calibration
    assert calibration is not None
    assert "survives_in_null" in calibration.points["outcome"].to_numpy()


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_with_a_late_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, settings = late_layer(limit=3000, length=24)
    path = tmp_path / "calibration.zarr"
    calibration = calibrate(model, data, output_path=path, **settings)
    assert "the same `param_masks`" in str(calibration)
    assert "falls as localization to the power 0.6" in str(calibration)
    assert "Localization decides much of it" in str(calibration)
    assert verdict(model, data, calibration.settings, param_masks=settings["param_masks"]) == "ok"
    monkeypatch.setattr(Subject, "run", None)  # going on takes no more gradients
    with pytest.raises(CalibrationRefused, match="between localization .* `max_slope=` allows more"):
        calibrate(model, data, output_path=path, max_slope=0.25, **settings)
