"""The judgement of a short run: what its diagnosis says against it, and the figures that later steps need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.common.run_data import burnin_steps
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.judge import DIAGNOSE_REQUIRES, diagnose
from devinterp.errors import MissingDataError
from devinterp.runs import only
from devinterp.schema import CHAIN, DRAW, FINISHED
from devinterp.schema import STEP as STEPS
from devinterp.types import SEVERITIES

#: What is to be changed where a run is not to be used: nothing, its step, its length, or the posterior it samples.
PASSED, STEP, LENGTH, POSTERIOR = "passed", "step", "length", "posterior"
_OF_THE_STEP = {"diverged", "hot", "step_too_large", "too_much_noise", "spiky"}
_OF_THE_LENGTH = {
    "cold",
    "short_burnin",
    "drift",
    "chains_disagree",
    "tokens_disagree",
    "few_draws",
    "too_little_signal",
    "unfinished",
}
#: How much localization decides is known from one run only if it is very much; two runs say more (`slope`).
_LEFT_TO_LATER = {("prior_dominated", "warning")}
#: Of these a longer burn-in may be the cure, and not only more draws.
_OF_THE_BURNIN = {"cold", "short_burnin", "drift", "chains_disagree"}


@dataclass(frozen=True)
class Failure:
    """A finding for which a run is not used: a warning, or a reason to reject."""

    code: str
    severity: str
    message: str
    value: float = math.nan
    limit: float = math.nan
    checkpoint: str = ""
    restriction: str = ""

    @property
    def is_certain(self) -> bool:
        """Return whether more draws cannot be expected to change it."""
        return self.severity == "reject" or self.code in _OF_THE_STEP

    @property
    def cure(self) -> str:
        """Return what is to be changed."""
        if self.code in _OF_THE_STEP:
            return STEP
        return LENGTH if self.code in _OF_THE_LENGTH else POSTERIOR


@dataclass(frozen=True)
class Figures:
    """What a run says of one restriction.

    Parameters
    ----------
    llc, llc_se : float
        The paired coefficient and its standard error.
    autocorrelation : float
        Steps that are worth one independent draw of the loss.
    s_gamma, s_gamma_se : float
        Slope of its logarithm in that of localization, and its standard error; NaN where it is not known.
    temperature : float
        The configurational temperature.
    common_share : float
        Which share of the squared error is noise of minibatches that chains have in common; NaN of an earlier calibration.
    """

    llc: float
    llc_se: float
    autocorrelation: float
    s_gamma: float
    s_gamma_se: float
    temperature: float
    common_share: float = math.nan


@dataclass(frozen=True)
class Judged:
    """The judgement of one run.

    Parameters
    ----------
    checkpoint : str
        Label of the model.
    num_burnin_steps, num_draws : int
        Steps that were left out, and draws the run has.
    num_steps_judged : int
        Steps of each chain that were not left out.
    num_gradients : int
        Steps that all chains took under all restrictions: fewer than planned where chains diverged.
    verdict : str
        Of its diagnosis.
    failures : tuple of Failure
        Its warnings and reasons to reject, the worst first.
    figures : mapping of str to Figures
        By restriction; empty where a chain diverged.
    """

    checkpoint: str
    num_burnin_steps: int
    num_draws: int
    num_steps_judged: int
    num_gradients: int
    verdict: str
    failures: tuple[Failure, ...]
    figures: Mapping[str, Figures]

    @property
    def outcome(self) -> str:
        """Return what is to be changed: "passed", "step", "length" or "posterior"."""
        worst = self.worst
        return PASSED if worst is None else worst.cure

    @property
    def worst(self) -> Failure | None:
        """Return the failure that decides: what no other setting of the kernel can mend, then the step, then the length."""
        order = {POSTERIOR: 0, STEP: 1, LENGTH: 2}
        return min(
            self.failures,
            key=lambda each: (not each.is_certain, order[each.cure], -SEVERITIES.index(each.severity)),
            default=None,
        )

    @property
    def may_pass_when_longer(self) -> bool:
        """Return whether every failure may go away with more draws."""
        return all(each.cure != STEP and (each.cure == LENGTH or not each.is_certain) for each in self.failures)

    @property
    def needs_burnin(self) -> bool:
        """Return whether a failure may be of the burn-in."""
        return any(each.code in _OF_THE_BURNIN for each in self.failures)

    @property
    def is_usable(self) -> bool:
        """Return whether its coefficients can be compared with others': no chain diverged, and nothing is to be rejected."""
        return bool(self.figures) and all(each.severity != "reject" for each in self.failures)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Judged:
        """Return what `to_json` made values of."""
        parts = {
            "failures": tuple(Failure(**each) for each in values["failures"]),
            "figures": {name: Figures(**each) for name, each in values["figures"].items()},
        }
        return cls(**{**values, **parts})


def judge(tree: xr.DataTree, *, checkpoint: str, burnin: int) -> Judged:
    """Judge a run.

    Parameters
    ----------
    tree : xarray.DataTree
        The run.
    checkpoint : str
        Label of its model.
    burnin : int
        Steps to leave out.
    """
    found = diagnose(tree, burnin=burnin)
    names = ("code", "severity", "message", "value", "limit", "restriction")
    rows = zip(*(found[name].to_numpy().tolist() for name in names), strict=True)
    failures = tuple(
        Failure(str(code), str(severity), str(message), float(value), float(limit), checkpoint, str(restriction))
        for code, severity, message, value, limit, restriction in rows
        if severity in SEVERITIES[2:] and (code, severity) not in _LEFT_TO_LATER
    )
    run = only(tree, name="calibrate", requires=DIAGNOSE_REQUIRES)
    is_whole = bool((np.asarray(run["status/state"], dtype=object).astype(str) == FINISHED).all())
    return Judged(
        checkpoint,
        burnin,
        int(run.sizes[DRAW]),
        int(run["trace"].sizes[STEPS]) - burnin,
        int(run["status/steps_done"].sum()),
        str(found.attrs["verdict"]),
        failures,
        _figures(Evidence(run, run, burnin_steps(run, burnin))) if is_whole else {},
    )


def _figures(evidence: Evidence) -> dict[str, Figures]:
    series = evidence.series[0]
    deviation = series.rise.std([CHAIN, DRAW])
    error = mean_error(series.rise, shared=series.is_shared)
    slow = (deviation / error.where(error > 0)) ** 2
    ess = series.convergence["ess"]
    effective = ess.where(ess < slow, slow).where(slow.notnull(), ess)
    num = series.rise.sizes[CHAIN] * series.rise.sizes[DRAW]
    (slopes, slope_errors), temperatures = _slopes(evidence), evidence.temperature["temperature"].to_numpy()
    common = np.max([each.common_share for each in evidence.series], axis=0)
    return {
        name: Figures(
            llc=evidence.n_beta * float(series.mean[number]),
            llc_se=evidence.n_beta * float(series.error[number]),
            autocorrelation=num / max(float(effective[number]), 1.0),
            s_gamma=float(slopes[number]),
            s_gamma_se=float(slope_errors[number]),
            temperature=float(temperatures[number]),
            common_share=float(common[number]),
        )
        for number, name in enumerate(evidence.names)
    }


def _slopes(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    try:
        return evidence.sensitivity["s_gamma"].to_numpy(), evidence.sensitivity["s_gamma_se"].to_numpy()
    except (MissingDataError, KeyError):
        unknown = np.full(len(evidence.names), np.nan)
        return unknown, unknown
