"""Chains that diverged, are unfinished, or do not move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from devinterp import schema
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.schema import CHAIN, DRAW, RESTRICTION, STATUS
from devinterp.types import Check, Finding


def diverged(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each chain that did not finish."""
    states = np.asarray(evidence.whole[f"{STATUS}/state"], dtype=object).astype(str)
    errors = evidence.whole[STATUS].dataset.get("error")
    names, labels = evidence.whole[RESTRICTION].to_numpy(), evidence.whole[CHAIN].to_numpy()
    for index in np.argwhere(states != schema.FINISHED):
        restriction, chain = index
        state, reason = states[restriction, chain], "" if errors is None else str(errors.to_numpy()[restriction, chain])
        is_broken = state == schema.DIVERGED
        yield Finding(
            code="diverged" if is_broken else "unfinished",
            severity="reject" if is_broken else "warning",
            message=f"the chain is {state}" + (f": {reason}" if reason else ""),
            advice="take smaller steps (`lr`), or raise `localization`"
            if is_broken
            else "resume the run: the same call goes on",
            restriction=str(names[restriction]),
            chain=int(labels[chain]),
        )


def stuck(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each chain whose loss does not change from draw to draw."""
    for series in evidence.series:
        rise = series.rise
        if rise.sizes[DRAW] < 2:
            continue
        still = np.ptp(rise.transpose(RESTRICTION, CHAIN, DRAW).to_numpy(), axis=-1) == 0
        for restriction, chain in np.argwhere(still):
            yield Finding(
                code="stuck",
                severity="reject",
                message=f"{series.name} is the same at every draw",
                advice="check that the sampled weights matter for the loss, and that `lr` and `noise_level` are not zero",
                value=0.0,
                limit=0.0,
                restriction=evidence.names[restriction],
                observable=series.observable,
                chain=int(evidence.run[CHAIN].to_numpy()[chain]),
            )


CHECKS = [
    Check(
        "chain_states",
        diverged,
        {"diverged": "a loss was not finite", "unfinished": "a chain has not taken all its steps"},
        requires=(f"{STATUS}/state",),
    ),
    Check("stuck", stuck, {"stuck": "the loss does not change"}),
]
