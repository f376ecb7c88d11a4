"""How long the real run has to be for a wanted error: burn-in, spacing and draws from what a short run showed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from devinterp.analyses.common.limits import LIMITS
from devinterp.calibration.grid import Planned
from devinterp.calibration.judged import Figures, Judged
from devinterp.calibration.recommendation import Recommendation
from devinterp.calibration.request import Request
from devinterp.calibration.slope import Slope

#: Independent draws of the loss that no run should have fewer of, and draws of each chain.
LEAST_EFFECTIVE, LEAST_DRAWS = 250, 50
#: Burn-in in relaxation times of the flattest direction, between the three of a short run and five.
BURNIN_RELAXATIONS = 4.0
_LEAST_BURNIN = 20
#: Where chains have more of the squared error in common, each is given minibatches of its own, which `diagnose` would advise.
#: Half of its limit: of a hundred to four hundred steps a share of a quarter is known to ± 0.1 to 0.15.
MOST_IN_COMMON = LIMITS["common"].note / 2


def recommend(request: Request, planned: Planned, judged: Sequence[Judged], slope: Slope) -> Recommendation:
    """Return the setting of the real run.

    Parameters
    ----------
    request : Request
        What is asked for.
    planned : Planned
        The point that passed.
    judged : sequence of Judged
        Its runs, by checkpoint.
    slope : Slope
        How much localization decides where it decides most.
    """
    figures = [each for one in judged for each in one.figures.values()]
    burnin = max(
        _LEAST_BURNIN,
        planned.num_burnin_steps,
        max(each.num_burnin_steps for each in judged),
        math.ceil(BURNIN_RELAXATIONS * planned.relaxation),
    )
    steps = max(_steps_for(each, one, request) for one in judged for each in one.figures.values())
    slowest = max(each.autocorrelation for each in figures)
    of_each = max(LEAST_DRAWS, math.ceil(steps / request.num_chains))
    spacing = max(1, min(round(slowest), of_each // LEAST_DRAWS))
    draws = math.ceil(of_each / spacing)
    restrictions = max(len(one.figures) for one in judged)
    return Recommendation(
        **planned.point.to_json(),
        num_chains=request.num_chains,
        num_burnin_steps=burnin,
        num_draws=draws,
        num_steps_bw_draws=spacing,
        predicted_error=request.error,
        predicted_gradients=request.num_chains * restrictions * (burnin + draws * spacing),
        slope=slope.value,
        slope_se=slope.error,
        match_sampling_input_ids_across_chains=not any(each.common_share > MOST_IN_COMMON for each in figures),
    )


def _steps_for(figures: Figures, judged: Judged, request: Request) -> float:
    """Return the steps of all chains together that bring the error of a coefficient down to what is wanted."""
    num = request.num_chains * judged.num_steps_judged
    ratio = figures.llc_se / (request.error * abs(figures.llc))
    return max(num * ratio**2, LEAST_EFFECTIVE * figures.autocorrelation)
