r"""The greatest step of a kernel, and how long it takes to fill flat directions, from its law on quadratics.

With :math:`a = n\beta\, h_{max} + \gamma` and :math:`x = \epsilon a`, steps are stable for :math:`x < 4`; of SGLD and SGHMC
:math:`x` is also their bias. The noise of minibatches adds :math:`\rho = r\, \epsilon\, n\beta^2 \sigma_g^2 / 4B` to variances,
with :math:`r` how far the kernel moves in flat directions, relative to SGLD (docs/kernels.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devinterp import plugins
from devinterp.analyses.common.kernel_laws import friction_of, reach_of
from devinterp.analyses.common.limits import LIMITS
from devinterp.calibration.measured import Measured
from devinterp.errors import InvalidInputError, MissingDataError

#: Where kernels without a bias on quadratics begin (docs/kernels.md); curvature that grows along the way may ask for less.
FIRST_STEP = 0.5
#: Where chains go, x may be larger than where they began, but not by more.
MOST_STEP_AT_CHAINS = 0.75
#: Noise of minibatches in the stiffest direction alone: one direction of many.
MOST_NOISE_ALONG = 1.0
#: Relaxation times of the flattest direction after which 99.8 % of its variance is there.
RELAXATIONS = 3.0
_PRECONDITIONED = "rmsprop_"
#: Options of the preconditioned kernels that are their preconditioner's, with their defaults.
_EPS, _ADAPTATION = 0.1, 200


@dataclass(frozen=True)
class Law:
    """What calibration knows of a kernel with its options.

    Parameters
    ----------
    kernel : str
        Its name.
    options : mapping
        Its options.
    reach : float
        How far flat directions move, relative to SGLD.
    friction : float
        What a step takes away of the velocity; 1 without one.
    bias : float
        The relative excess of variance in a direction with step x, divided by x, for small x.
    eps : float or None
        Of the preconditioner; None without one.
    num_adaptation_steps : int
        Steps until it is held fixed.
    """

    kernel: str
    options: Mapping[str, Any]
    reach: float
    friction: float
    bias: float
    eps: float | None = None
    num_adaptation_steps: int = 0

    @classmethod
    def of(cls, kernel: str, options: Mapping[str, Any]) -> Law:
        """Return the law of a kernel.

        Raises
        ------
        InvalidInputError
            If none is known.
        """
        plugins.kernel(kernel)  # raises where there is none
        plain = kernel.removeprefix(_PRECONDITIONED)
        try:
            reach = reach_of(plain, options)
        except MissingDataError as error:
            raise InvalidInputError(
                f"`kernels`: the greatest step of {kernel!r} with {dict(options)} is not known ({error}). Choose among "
                "'sgld', 'leimkuhler_matthews', 'baoab' and 'sghmc' without `gradient_noise`, and 'rmsprop_' and one of the "
                "first three."
            ) from error
        friction = friction_of(plain, options)
        bias = {"sghmc": 1 / (4 * (2 - friction)), "leimkuhler_matthews": 0.0, "baoab": 0.0}.get(plain, 0.25)
        if plain == kernel:
            return cls(kernel, options, reach, friction, bias)
        adaptation = int(options.get("num_adaptation_steps", _ADAPTATION)) if plain != "sgld" else 0
        return cls(kernel, options, reach, friction, bias, float(options.get("eps", _EPS)), adaptation)

    def greatest_step(self, error: float) -> float:
        """Return the largest x to begin with, for a relative error of the coefficient: half of it may be bias."""
        return FIRST_STEP if not self.bias else min(FIRST_STEP, error / (2 * self.bias))

    def greatest_lr(
        self, measured: Measured, n_beta: float, localization: float, batch_size: int, error: float
    ) -> float:
        """Return the largest `lr` that curvature and minibatch noise allow, with two digits, rounded down.

        Parameters
        ----------
        measured : Measured
            Of a checkpoint and a restriction.
        n_beta, localization : float
            The posterior.
        batch_size : int
            Rows of a minibatch.
        error : float
            Wanted relative error of the coefficient.
        """
        limits = [self.greatest_step(error) / self.step(1.0, measured, n_beta, localization)]
        for noise, limit in (
            (measured.noise, LIMITS["noise"].warning),
            (measured.noise_along, MOST_NOISE_ALONG),
        ):
            rho = self._rho(1.0, noise, n_beta, batch_size)
            limits.append(limit / rho if rho else math.inf)
        return rounded_down(min(limits))

    def step_at(self, lr: float, curvature: float, n_beta: float, localization: float) -> float:
        """Return x for a second derivative of the loss that was measured elsewhere than at w0."""
        return self._longest(lr) * (n_beta * curvature + localization)

    def step(self, lr: float, measured: Measured, n_beta: float, localization: float) -> float:
        """Return x, the step in units of one over the largest second derivative of the potential."""
        return self._longest(lr) * (n_beta * measured.curvature(n_beta) + localization)

    def noise(self, lr: float, measured: Measured, n_beta: float, batch_size: int) -> float:
        """Return rho, what minibatch noise adds to the variance of a weight on average, as a share."""
        return self._rho(lr, measured.noise, n_beta, batch_size)

    def relaxation(self, lr: float, measured: Measured, localization: float, batch_size: int) -> float:
        """Return the steps in which the flattest direction is forgotten; infinite without localization."""
        if not localization:
            return math.inf
        scale = 1.0
        if self.eps is not None:
            square = measured.noise / batch_size + measured.gradient_square / measured.num_parameters
            scale = 1 / (math.sqrt(max(square, 0.0)) + self.eps)
        return 2 / (lr * scale * localization * self.reach) + (1 / self.friction if self.friction < 1 else 0)

    def burnin(self, relaxation: float) -> int:
        """Return the steps of a burn-in for a relaxation time."""
        return self.num_adaptation_steps + math.ceil(RELAXATIONS * relaxation)

    def _longest(self, lr: float) -> float:
        return lr if self.eps is None else lr / self.eps

    def _rho(self, lr: float, noise: float, n_beta: float, batch_size: int) -> float:
        return self.reach * self._longest(lr) * n_beta**2 * noise / (4 * batch_size)


def rounded_down(value: float, digits: int = 2) -> float:
    """Return a positive number with so many digits, not larger than it is.

    The last bits of what is measured differ between machines; settings should not.
    """
    if not 0 < value < math.inf:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.floor(value / unit * (1 + 1e-9)) * unit:.{digits}g}")
