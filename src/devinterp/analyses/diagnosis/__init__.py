"""Whether the numbers of a run can be used: ``tree.slt.diagnose()``.

`judge` asks every installed check and puts findings together; `evidence` is what checks are given, `series` the mean losses
they share, `limits` where each limit comes from. One idea a module: `chain_states`, `agreement`, `drift`, `signal`,
`loss_level`, `equilibrium`, `step_size`, `prior`, `null`. Other packages add checks by the same hook.
"""

from __future__ import annotations

from devinterp.analyses.diagnosis import (
    agreement,
    chain_states,
    drift,
    equilibrium,
    loss_level,
    null,
    prior,
    signal,
    step_size,
)
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.judge import DIAGNOSE_REQUIRES, diagnose
from devinterp.hookspecs import hookimpl
from devinterp.types import Analysis, Check

__all__ = ["Evidence", "devinterp_analyses", "diagnose"]

_MODULES = (chain_states, agreement, drift, signal, loss_level, equilibrium, step_size, prior, null)


@hookimpl
def devinterp_analyses() -> list[Analysis | Check]:
    """Return the diagnosis and the checks of this package."""
    checks = [check for module in _MODULES for check in module.CHECKS]
    return [Analysis(name="diagnose", compute=diagnose, requires=DIAGNOSE_REQUIRES), *checks]
