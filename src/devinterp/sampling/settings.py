"""The settings of a run, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from devinterp.errors import InvalidInputError
from devinterp.types import Target


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sample: everything but the model, the data and the weight restrictions.

    The names are those of `devinterp.slt.sampling.sample`, which documents them.

    Raises
    ------
    InvalidInputError
        If a value is out of range; the message gives the value and the range.
    """

    lr: float
    n_beta: float
    num_chains: int = 4
    num_draws: int = 200
    batch_size: int = 32
    num_burnin_steps: int = 0
    num_steps_bw_draws: int = 1
    num_init_loss_batches: int = 32
    init_seed: int = 100
    batches_per_draw: int = 3
    obs_seed: int = 1337
    gradient_accumulation_steps: int = 1
    localization: float = 0.0
    noise_level: float = 1.0
    weight_decay: float = 0.0
    bounding_box_size: float | None = None
    sampling_method: str = "sgld"
    sampling_method_kwargs: Mapping[str, Any] = field(default_factory=dict)
    shuffle: bool = True
    match_sampling_input_ids_across_chains: bool = True
    init_noise: float | None = None
    save_metrics: bool = False
    record: str = "token"
    loss_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check_count(name, getattr(self, name), least=1)
        for name in ("num_burnin_steps", "init_seed", "obs_seed"):
            _check_count(name, getattr(self, name), least=0)
        _check_number("lr", self.lr, positive=True)
        for name in ("n_beta", "localization", "noise_level", "weight_decay"):
            _check_number(name, getattr(self, name))
        if self.bounding_box_size is not None:
            _check_number("bounding_box_size", self.bounding_box_size, positive=True)
        if self.init_noise is not None:
            _check_number("init_noise", self.init_noise)
        _check_word("record", self.record, RECORDS)
        _check_word("loss_dtype", self.loss_dtype, LOSS_DTYPES)

    @property
    def num_steps(self) -> int:
        """Return the steps of each chain, burn-in included."""
        return self.num_burnin_steps + self.num_draws * self.num_steps_bw_draws

    @property
    def batches_per_step(self) -> int:
        """Return the minibatches of one step."""
        return self.gradient_accumulation_steps

    @property
    def target(self) -> Target:
        """Return the posterior that is sampled."""
        return Target(n_beta=self.n_beta, localization=self.localization, weight_decay=self.weight_decay)

    def draw_after(self, step: int) -> int | None:
        """Return the index of the draw taken after the update of a step, or None where none is."""
        since = step - self.num_burnin_steps
        if since < 0 or since % self.num_steps_bw_draws:
            return None
        return since // self.num_steps_bw_draws

    def to_config(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return {**asdict(self), "sampling_method_kwargs": dict(self.sampling_method_kwargs)}


#: What of the losses is kept (`devinterp.sampling.recording`), and in which precision.
RECORDS, LOSS_DTYPES = ("token", "sequence", "moments"), ("float32", "float16")

_COUNTS = (
    "num_chains",
    "num_draws",
    "batch_size",
    "num_steps_bw_draws",
    "num_init_loss_batches",
    "batches_per_draw",
    "gradient_accumulation_steps",
)


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value.__index__()) < least:
        kind = "a positive whole number" if least == 1 else "a whole number, at least 0"
        raise InvalidInputError(f"`{name}` (={value!r}) must be {kind}.")


def _check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InvalidInputError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, words))}.")


def _check_number(name: str, value: object, *, positive: bool = False) -> None:
    wanted = "positive and finite" if positive else "at least 0 and finite"
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidInputError(f"`{name}` (={value!r}) must be a number, {wanted}.") from None
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        word = "positive" if positive else "at least 0"
        raise InvalidInputError(f"`{name}` (={value!r}) must be {word} and finite.")
