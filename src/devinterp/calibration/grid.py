"""The settings that may be tried, in the order of preference, and which of them need no run to be refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from devinterp.analyses.common.limits import LIMITS
from devinterp.calibration.laws import Law
from devinterp.calibration.measured import Measured
from devinterp.calibration.request import RELATIVE_LOCALIZATIONS, Request

#: How much stronger localization is in the run that says how much of a coefficient it decides.
STRONGER = 2.0


@dataclass(frozen=True)
class Point:
    """One setting of the grid.

    Parameters
    ----------
    kernel : str
        Name of the kernel.
    options : mapping
        Its options.
    lr, n_beta, localization : float
        As for `devinterp.sample`.
    batch_size : int
        Rows of a minibatch.
    """

    kernel: str
    options: Mapping[str, Any]
    lr: float
    n_beta: float
    localization: float
    batch_size: int

    @property
    def name(self) -> str:
        """Return the name of the group that holds its run."""
        return f"{self.kernel}-lr{self.lr:g}-beta{self.n_beta:g}-gamma{self.localization:g}-batch{self.batch_size}"

    def at_half_the_step(self) -> Point:
        """Return the same with half the step."""
        return replace(self, lr=self.lr / 2)

    def at_stronger_localization(self) -> Point:
        """Return the same with localization `STRONGER` times as strong."""
        return replace(self, localization=STRONGER * self.localization)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the arguments of `devinterp.sample` that these are."""
        return {
            "sampling_method": self.kernel,
            "sampling_method_kwargs": dict(self.options),
            "lr": self.lr,
            "n_beta": self.n_beta,
            "localization": self.localization,
            "batch_size": self.batch_size,
        }

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Planned:
    """A point, and what its kernel's law says of it where that is worst: among checkpoints and restrictions.

    Parameters
    ----------
    point : Point
        The setting.
    step : float
        Step size times the largest second derivative of the potential.
    noise : float
        What minibatch noise adds to the variance of weights.
    relaxation : float
        Steps in which the flattest direction is forgotten.
    num_burnin_steps : int
        Steps of burn-in that follow from it.
    """

    point: Point
    step: float
    noise: float
    relaxation: float
    num_burnin_steps: int

    @classmethod
    def of(cls, point: Point, law: Law, measured: Sequence[Measured]) -> Planned:
        """Return what a law says of a point."""
        relaxation = max(law.relaxation(point.lr, each, point.localization, point.batch_size) for each in measured)
        return cls(
            point,
            max(law.step(point.lr, each, point.n_beta, point.localization) for each in measured),
            max(law.noise(point.lr, each, point.n_beta, point.batch_size) for each in measured),
            relaxation,
            law.burnin(relaxation),
        )

    def refusal(self, most_burnin_steps: int) -> tuple[str, float, float] | None:
        """Return why it need not be run, as a code, the figure and its limit; None where it is to be run."""
        for code, value, limit in (
            ("step_too_large", self.step, LIMITS["step"].reject),
            ("too_much_noise", self.noise, LIMITS["noise"].reject),
            ("short_burnin", float(self.num_burnin_steps), float(most_burnin_steps)),
        ):
            if value > limit:
                return code, value, limit
        return None


@dataclass(frozen=True)
class Posterior:
    """An inverse temperature and a localization."""

    n_beta: float
    localization: float


def posteriors(request: Request, measured: Sequence[Measured], n_betas: Sequence[float]) -> list[Posterior]:
    """Return the pairs to try: those that localization decides least come first, and of equals the colder ones.

    Parameters
    ----------
    request : Request
        What is asked for; without localizations they are multiples of the largest second derivative of ``n_beta`` L, the
        geometric mean over what was measured.
    measured : sequence of Measured
        Of all checkpoints and restrictions.
    n_betas : sequence of float
        Inverse temperatures.
    """
    ratios: dict[Posterior, float] = {}
    for n_beta in n_betas:
        logs = [math.log(each.curvature(n_beta)) for each in measured if each.curvature(n_beta) > 0]
        stiffest = n_beta * math.exp(math.fsum(logs) / len(logs)) if logs else n_beta
        relative = [float(f"{share * stiffest:.1g}") for share in RELATIVE_LOCALIZATIONS]
        ratios |= {Posterior(n_beta, each): each / stiffest for each in request.localizations or relative}
    # Ratios that differ by less than a factor of two are as good as equal.
    return sorted(ratios, key=lambda each: (round(math.log2(ratios[each])), -each.n_beta, ratios[each]))


def first_points(request: Request, law: Law, posterior: Posterior, measured: Sequence[Measured]) -> Iterator[Point]:
    """Yield where to begin with a kernel: at the greatest step that its law allows, or at the steps that were asked for.

    Of several batch sizes the least is taken at which noise does not make the step smaller, or else the largest.
    """
    n_beta, localization = posterior.n_beta, posterior.localization
    sizes = sorted(request.batch_sizes)
    greatest = [
        min(law.greatest_lr(each, n_beta, localization, size, request.error) for each in measured) for size in sizes
    ]
    size, lr = next((size, lr) for size, lr in zip(sizes, greatest, strict=True) if lr >= greatest[-1] * 0.99)
    for each in sorted(request.lrs, reverse=True) if request.lrs else [lr]:
        yield Point(law.kernel, law.options, each, n_beta, localization, size)
