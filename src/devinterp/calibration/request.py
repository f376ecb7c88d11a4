"""What a calibration is asked for, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from devinterp.analyses.common.limits import LIMITS
from devinterp.calibration.laws import Law
from devinterp.errors import InvalidInputError

#: Kernels in the order in which they are tried: the first has no bias of the step size and moves nine times as far as SGLD.
KERNELS = ("baoab", "sgld")
#: The practice of the field on language models; n / log n is added for a dataset of n rows.
N_BETAS = (10.0, 30.0, 100.0)
#: Minibatches on which is measured at w0: pairs give the noise of gradients.
NUM_MINIBATCHES = 16
#: The slope in localization up to which a setting is recommended, where none is asked for: `diagnose` rejects above it.
MAX_SLOPE = LIMITS["prior"].reject
#: Localization over the largest second derivative of n_beta L, where none is asked for.
RELATIVE_LOCALIZATIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Request:
    """The settings that may be tried, the error that is wanted and the budget; `devinterp.calibrate` documents them.

    Raises
    ------
    InvalidInputError
        If a value is out of range.
    """

    kernels: Mapping[str, Mapping[str, Any]]
    n_betas: tuple[float, ...] | None
    localizations: tuple[float, ...] | None
    lrs: tuple[float, ...] | None
    batch_sizes: tuple[int, ...]
    num_chains: int
    error: float
    max_gradients: int
    init_seed: int
    max_slope: float = MAX_SLOPE
    laws: Mapping[str, Law] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, values in (("n_beta", self.n_betas), ("localization", self.localizations), ("lr", self.lrs)):
            if values is not None and not (values and all(0 < each < math.inf for each in values)):
                raise InvalidInputError(f"`{name}` (={values!r}) must be one or several numbers above zero.")
        if not self.batch_sizes or any(each < 1 for each in self.batch_sizes):
            raise InvalidInputError(f"`batch_size` (={self.batch_sizes!r}) must be one or several numbers of rows.")
        if self.num_chains < 2:
            raise InvalidInputError(f"`num_chains` (={self.num_chains}) must be at least 2: chains are compared.")
        if not 0 < self.error < 1:
            raise InvalidInputError(f"`error` (={self.error}) must be between 0 and 1: a share of the coefficient.")
        if self.max_gradients < 1:
            raise InvalidInputError(f"`max_gradients` (={self.max_gradients}) must be at least 1.")
        if not self.max_slope > 0:
            raise InvalidInputError(
                f"`max_slope` (={self.max_slope}) must be above zero: 1 is where localization decides all."
            )
        if not self.kernels:
            raise InvalidInputError("`kernels` is empty: name at least one.")
        laws = {name: Law.of(name, options) for name, options in self.kernels.items()}
        object.__setattr__(self, "laws", laws)  # the class is frozen

    @classmethod
    def of(cls, kernels: Any, n_beta: Any, localization: Any, lr: Any, batch_size: Any, **others: Any) -> Request:
        """Return a request, from arguments that may be one value or several."""
        if isinstance(kernels, str):
            kernels = (kernels,)
        named = kernels if isinstance(kernels, Mapping) else {name: {} for name in kernels}
        return cls(
            kernels={str(name): dict(options or {}) for name, options in named.items()},
            n_betas=_numbers("n_beta", n_beta),
            localizations=_numbers("localization", localization),
            lrs=_numbers("lr", lr),
            batch_sizes=tuple(int(each) for each in _numbers("batch_size", batch_size) or ()),
            **others,
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values, without the laws."""
        values = asdict(self)
        del values["laws"]
        return values


def measuring_settings(request: Request) -> dict[str, Any]:
    """Return arguments of `devinterp.sample` with as many minibatches as measuring takes."""
    return {
        "lr": 1.0,
        "n_beta": 1.0,
        "num_chains": 1,
        "num_draws": NUM_MINIBATCHES,
        "num_init_loss_batches": 1,
        "batch_size": max(request.batch_sizes),
        "batches_per_draw": 1,
        "init_seed": request.init_seed,
        "sampling_method": "sgld",
    }


def _numbers(name: str, given: Any) -> tuple[float, ...] | None:
    if given is None:
        return None
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    try:
        return tuple(dict.fromkeys(float(each) for each in several))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"`{name}` (={given!r}) must be a number, or several.") from error
