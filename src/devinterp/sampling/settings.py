"""The settings of a run, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.schema import MALA_ACCEPTANCE, STEP_METRICS
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
    max_grad_norm: float | None = None
    weight_decay: float = 0.0
    bounding_box_size: float | None = None
    sampling_method: str = "sgld"
    sampling_method_kwargs: Mapping[str, Any] = field(default_factory=dict)
    shuffle: bool = True
    match_sampling_input_ids_across_chains: bool = True
    init_noise: float | None = None
    save_metrics: bool | Sequence[str] = False
    record: str = "token"
    loss_dtype: str = "float32"

    def __post_init__(self) -> None:
        # Stored as plain numbers: those of numpy and torch are no JSON.
        for name in _COUNTS:
            self._set(name, arguments.count(name, getattr(self, name), least=1))
        for name in ("num_burnin_steps", "init_seed", "obs_seed"):
            self._set(name, arguments.count(name, getattr(self, name), least=0))
        self._set("lr", arguments.number("lr", self.lr, positive=True))
        for name in ("n_beta", "localization", "noise_level", "weight_decay"):
            self._set(name, arguments.number(name, getattr(self, name)))
        if self.bounding_box_size is not None:
            self._set("bounding_box_size", arguments.number("bounding_box_size", self.bounding_box_size, positive=True))
        if self.max_grad_norm is not None:
            self._set("max_grad_norm", arguments.number("max_grad_norm", self.max_grad_norm, positive=True))
        if self.init_noise is not None:
            self._set("init_noise", arguments.number("init_noise", self.init_noise))
        options = arguments.mapping("sampling_method_kwargs", self.sampling_method_kwargs)
        self._set("sampling_method_kwargs", {k: _plain(v) for k, v in options.items()})
        for name in ("shuffle", "match_sampling_input_ids_across_chains"):
            self._set(name, arguments.flag(name, getattr(self, name)))
        self._set("save_metrics", _as_metrics(self.save_metrics))
        clipped = self.bounding_box_size is not None or self.max_grad_norm is not None
        if MALA_ACCEPTANCE in self.metric_names and (clipped or self.noise_level == 0):
            raise InvalidInputError(
                f"`save_metrics`: {MALA_ACCEPTANCE!r} is of steps that are proposals, which steps with a `bounding_box_size` "
                "or `max_grad_norm`, or with `noise_level` 0, are not."
            )
        arguments.word("record", self.record, RECORDS)
        arguments.word("loss_dtype", self.loss_dtype, LOSS_DTYPES)

    @classmethod
    def of(cls, given: Mapping[str, Any], kernel_options: Mapping[str, Any], weight_decay: float) -> Settings:
        """Return the settings among the arguments of `devinterp.slt.sampling.sample`, by their names."""
        own = {each.name: given[each.name] for each in fields(cls) if each.name in given}
        return cls(**{**own, "sampling_method_kwargs": kernel_options, "weight_decay": weight_decay})

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    @property
    def num_steps(self) -> int:
        """Return the steps of each chain, burn-in included."""
        return self.num_burnin_steps + self.num_draws * self.num_steps_bw_draws

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Return the metrics that are recorded."""
        if isinstance(self.save_metrics, bool):
            return STEP_METRICS if self.save_metrics else ()
        return tuple(self.save_metrics)

    @property
    def batches_per_step(self) -> int:
        """Return the minibatches of one step."""
        return self.gradient_accumulation_steps

    @property
    def largest_loss(self) -> float:
        """Return the largest number of the precision in which losses are stored."""
        # Running moments are of losses in float32, and stored without rounding to `loss_dtype`.
        dtype = np.dtype("float32" if self.record == "moments" else self.loss_dtype)
        return float(np.finfo(dtype).max)

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


#: What of the losses is kept (`devinterp.sampling.chains.reductions`), and in which precision.
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


def _as_metrics(value: object) -> bool | tuple[str, ...]:
    """Return which metrics, by name or as all or none of v2's."""
    if isinstance(value, bool):
        return value
    known = (*STEP_METRICS, MALA_ACCEPTANCE)
    names = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise InvalidInputError(
            f"`save_metrics` (={value!r}) must be True, False, or names, each once: {', '.join(map(repr, known))}."
        )
    return names


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as Python's."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
