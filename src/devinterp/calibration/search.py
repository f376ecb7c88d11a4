"""The search: settings are tried in the order in which they would be preferred, and the first that passes everything is it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from devinterp.calibration.agreement import Comparison, compare
from devinterp.calibration.grid import STRONGER, Planned, Point, Posterior, first_points, posteriors
from devinterp.calibration.judged import LENGTH, PASSED, POSTERIOR, STEP, Failure, Judged
from devinterp.calibration.laws import MOST_STEP_AT_CHAINS, Law, rounded_down
from devinterp.calibration.lengths import recommend
from devinterp.calibration.measured import Measured
from devinterp.calibration.recommendation import Recommendation
from devinterp.calibration.request import Request
from devinterp.calibration.result import COMPARED, RECOMMENDED, Row
from devinterp.calibration.rows import disagreement, row_of, static_failure
from devinterp.calibration.short_runs import BudgetSpentError, ShortRuns
from devinterp.calibration.slope import Slope, worst_slope

#: How often the step is halved before a kernel is given up at a posterior.
NUM_HALVINGS = 6


@dataclass(frozen=True)
class _Tried:
    """A point, what its law says, the judgements of its runs by checkpoint, why it fails, and a smaller step to try next."""

    planned: Planned
    judged: tuple[Judged, ...]
    failure: Failure | None
    smaller: Point | None = None

    @property
    def outcome(self) -> str:
        return PASSED if self.failure is None else self.failure.cure


class Search:
    """Tries settings until one passes.

    Parameters
    ----------
    request : Request
        What is asked for.
    measured : sequence of Measured
        Of every checkpoint and restriction.
    n_betas : sequence of float
        Inverse temperatures to try.
    runs : ShortRuns
        Runs and judges points.
    """

    def __init__(
        self, request: Request, measured: Sequence[Measured], n_betas: Sequence[float], runs: ShortRuns
    ) -> None:
        self._request, self._measured, self._n_betas, self._runs = request, measured, n_betas, runs
        self._least_dominated = math.inf  # localization over n_beta, from which on it decides too much
        self.rows: dict[str, Row] = {}

    def run(self) -> Recommendation | None:
        """Return the setting that passes everything, None where there is none; `rows` says what became of each."""
        for posterior in posteriors(self._request, self._measured, self._n_betas):
            if posterior.localization / posterior.n_beta >= self._least_dominated:
                continue
            try:
                recommendation = self._at(posterior)
            except BudgetSpentError as spent:
                self._note(spent.planned, Failure("budget", "reject", str(spent)), ())
                return None
            if recommendation is not None:
                return recommendation
        return None

    def _at(self, posterior: Posterior) -> Recommendation | None:
        """Try every kernel at a posterior, until one passes or the posterior itself is refused."""
        for law in self._request.laws.values():
            for point in first_points(self._request, law, posterior, self._measured):
                outcome = self._from(point, law)
                if isinstance(outcome, Recommendation):
                    return outcome
                if outcome == POSTERIOR:
                    return None
        return None

    def _from(self, point: Point, law: Law) -> Recommendation | str:
        """Try a point, and smaller steps where it fails for its step; return the last outcome where none passes."""
        tried, num_halvings = self._try(point, law), 0
        while True:
            if tried.outcome == PASSED:
                tried = self._at_its_chains(tried, law)
            if tried.outcome == PASSED:
                outcome = self._confirm(tried, law)
                if not isinstance(outcome, _Tried):
                    return outcome
                tried = outcome  # at half the step, which has been run
            elif tried.outcome == STEP or _may_be_the_step(tried):
                if self._request.lrs or num_halvings == NUM_HALVINGS:
                    return STEP
                tried = self._try(tried.smaller or tried.planned.point.at_half_the_step(), law)
            else:
                return tried.outcome
            num_halvings += 1
            if num_halvings > NUM_HALVINGS or self._request.lrs:
                return STEP

    def _at_its_chains(self, tried: _Tried, law: Law) -> _Tried:
        """Refuse a point whose steps are too large for the curvature where its chains ended, if it is not refused already."""
        point = tried.planned.point
        steps = {
            (one.checkpoint, restriction): law.step_at(point.lr, curvature, point.n_beta, point.localization)
            for one in tried.judged
            for restriction, curvature in self._runs.curvatures(tried.planned, one.checkpoint).items()
        }
        (checkpoint, restriction), step = max(steps.items(), key=lambda each: each[1])
        if step <= MOST_STEP_AT_CHAINS:
            return tried
        message = (
            f"where chains went the step times the largest second derivative of the potential is {step:.3g} "
            f"(limit {MOST_STEP_AT_CHAINS:g})"
        )
        failure = Failure("step_too_large", "reject", message, step, MOST_STEP_AT_CHAINS, checkpoint, restriction)
        self._note(tried.planned, failure, tried.judged)
        allowed = min(law.greatest_step(self._request.error) / step, 0.5)
        return replace(tried, failure=failure, smaller=replace(point, lr=rounded_down(point.lr * allowed)))

    def _confirm(self, tried: _Tried, law: Law) -> Recommendation | str | _Tried:
        """Compare a point that passed with half its step, with its null run, and with stronger localization.

        Returns
        -------
        Recommendation, str or _Tried
            What is recommended; what is to be changed; or the point at half the step, where it is that which is to be looked at
            next.
        """
        half = self._compared_with(tried.planned.point.at_half_the_step(), law)
        if not _is_usable(half):
            self._note_because_of(half, tried, "at half the step", code="step_halving")
            return LENGTH
        tried, half, compared = self._compare(tried, half)
        if not compared.is_precise or not compared.agrees:
            self._note(tried.planned, disagreement(compared), tried.judged)
            return half if compared.is_precise else LENGTH
        judged = self._runs.judge_with_null(tried.planned, tried.judged)
        failure = _worst(judged)
        if failure is not None:
            self._note(tried.planned, failure, judged)
            return POSTERIOR
        return self._recommend_by_slope(replace(tried, judged=judged), half, law)

    def _recommend_by_slope(self, tried: _Tried, half: _Tried, law: Law) -> Recommendation | str:
        """Recommend a point that passed everything else, unless its coefficient is much smaller at stronger localization."""
        point = tried.planned.point
        strong = self._compared_with(point.at_stronger_localization(), law)
        if not _is_usable(strong):
            self._note_because_of(strong, tried, f"at {STRONGER:g} times the localization")
            return strong.outcome
        slope = worst_slope([tried.judged, half.judged], strong.judged)
        while not slope.is_precise:
            longer = self._runs.judge_longer(strong.planned, strong.judged)
            if longer is None:
                break
            strong = replace(strong, judged=longer)
            self._note_compared(strong)
            slope = worst_slope([tried.judged, half.judged], strong.judged)
        failure = slope.failure(point.localization, self._request.max_slope)
        self._note(tried.planned, failure, tried.judged, outcome=RECOMMENDED, slope=slope)
        return recommend(self._request, tried.planned, tried.judged, slope) if failure is None else failure.cure

    def _compared_with(self, point: Point, law: Law) -> _Tried:
        """Return a point that another is compared with, run until its coefficient is usable."""
        planned = Planned.of(point, law, self._measured)
        judged = self._runs.judge(planned, to_compare=True)
        compared = _Tried(planned, judged, _worst(judged))
        self._note_compared(compared)
        return compared

    def _compare(self, tried: _Tried, half: _Tried) -> tuple[_Tried, _Tried, Comparison]:
        """Compare a point with half its step; both are made longer while their difference is too uncertain."""
        compared = compare(tried.judged, half.judged, self._request.error)
        while not compared.is_precise:
            longer = [self._runs.judge_longer(each.planned, each.judged) for each in (tried, half)]
            tried, half = (
                each if judged is None else replace(each, judged=judged, failure=_worst(judged))
                for each, judged in zip((tried, half), longer, strict=True)
            )
            if longer == [None, None]:
                break
            compared = compare(tried.judged, half.judged, self._request.error)
        self._note_compared(half)
        return tried, half, compared

    def _try(self, point: Point, law: Law) -> _Tried:
        planned = Planned.of(point, law, self._measured)
        failure = static_failure(planned, self._runs)
        if failure is not None:
            self._note(planned, failure, ())
            return _Tried(planned, (), failure)
        judged = self._runs.judge(planned)
        failure = _worst(judged)
        self._note(planned, failure, judged, outcome=COMPARED)
        return _Tried(planned, judged, failure)

    def _note_compared(self, compared: _Tried) -> None:
        """Write the row of a run that another is compared with: warnings do not matter there."""
        failure = None if _is_usable(compared) else compared.failure
        self._note(compared.planned, failure, compared.judged, outcome=COMPARED)

    def _note_because_of(self, compared: _Tried, tried: _Tried, where: str, *, code: str = "") -> None:
        """Write the row of a point that fails because what it is compared with is not usable."""
        assert compared.failure is not None  # or its coefficients could be compared
        why = replace(
            compared.failure, code=code or compared.failure.code, message=f"{where}: {compared.failure.message}"
        )
        self._note(tried.planned, why, tried.judged)

    def _note(
        self,
        planned: Planned,
        failure: Failure | None,
        judged: Sequence[Judged],
        *,
        outcome: str = "",
        slope: Slope | None = None,
    ) -> None:
        """Write the row of a point anew."""
        if failure is not None and failure.code == "prior_dominated":
            self._least_dominated = min(self._least_dominated, planned.point.localization / planned.point.n_beta)
        num = self._runs.gradients_of(planned.point)
        row = row_of(planned, failure, judged, outcome=outcome, num_gradients=num)
        if slope is not None:
            row = replace(row, s_gamma=-slope.value, s_gamma_se=slope.error)
        self.rows[planned.point.name] = row


def _worst(judged: Sequence[Judged]) -> Failure | None:
    """Return the failure of the last checkpoint that was run: a point that fails at one is not run at the next."""
    return judged[-1].worst if judged else None


def _is_usable(tried: _Tried) -> bool:
    """Say whether the coefficients of all checkpoints can be compared with others."""
    return bool(tried.judged) and all(each.is_usable for each in tried.judged)


def _may_be_the_step(tried: _Tried) -> bool:
    """Say whether chains that disagree may do so because of a step that is too large for where they go."""
    return tried.failure is not None and tried.failure.code in ("chains_disagree", "drift") and tried.planned.step > 0.1
