"""A `transformers.TrainerCallback` that samples at chosen steps of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from devinterp.studies.recorder import TrainingRecorder


class RecorderCallback(TrainerCallback):  # type: ignore[misc]  # the library is untyped
    """Samples around the weights of a model that a ``transformers.Trainer`` trains.

    Parameters
    ----------
    recorder : TrainingRecorder
        Which says when and how.
    """

    def __init__(self, recorder: TrainingRecorder) -> None:
        self._recorder = recorder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sample before the first step."""
        self._checkpoint(state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sample after a step, if it is one of those chosen."""
        self._checkpoint(state, kwargs["model"])

    def _checkpoint(self, state: Any, model: Any) -> None:
        if state.is_world_process_zero:
            self._recorder.checkpoint(model, state.global_step)
