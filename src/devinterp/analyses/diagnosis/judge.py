"""Judge a run: every installed check, and the verdict that is the worst of what they find."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp import plugins, schema
from devinterp.analyses.common.run_data import STATUS_REQUIRED, burnin_steps, use_chains
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.errors import BrokenChainsError, MissingDataError
from devinterp.runs import only
from devinterp.types import SEVERITIES, Finding

DIAGNOSE_REQUIRES = ("trace/loss|trace/mean_loss", "trace/init_loss", *STATUS_REQUIRED)
_FIELDS = {"code": object, "severity": object, "restriction": object, "observable": object, "chain": np.int64}
_FIELDS |= {"value": np.float64, "limit": np.float64, "message": object, "advice": object}


def diagnose(tree: xr.DataTree, *, burnin: int | None = None) -> xr.Dataset:
    """Judge whether the numbers of a run can be used, from everything that it recorded.

    Reads all losses, a part at a time, and keeps only their means.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run. Chains that did not finish are reported, and the rest judged.
    burnin : int, optional
        Number of initial steps to leave out, from 0. Default: the ``num_burnin_steps`` that the run was sampled with.

    Returns
    -------
    xarray.Dataset
        - ``code``, ``severity`` (``"note"``, ``"warning"`` or ``"reject"``), ``message``, ``advice``, ``value``, ``limit``,
          ``restriction``, ``observable``, ``chain`` (-1 for all): one finding each along ``finding``, the worst first
          (docs/diagnosis.md lists the codes);
        - ``looked_at(check)`` and ``reason(check)``: which checks could be made, and why not the others;
        - ``verdict``: ``"ok"``, ``"note"``, ``"warning"`` or ``"reject"``, the worst of the severities; also an attribute.

    Raises
    ------
    InvalidInputError
        If `burnin` leaves no step.
    MissingDataError
        If the tree has no losses.
    """
    run = only(tree, name="diagnose", requires=DIAGNOSE_REQUIRES)
    checks = plugins.checks()
    try:
        finished, used = use_chains(run, "finished", needed_by="diagnose")
    except BrokenChainsError:
        finished, used = run, {"chains_used": []}
    evidence = Evidence(run, finished, burnin_steps(run, burnin))
    findings: list[Finding] = []
    reasons = {}
    for name, check in checks.items():
        try:
            if not used["chains_used"] and check.requires != (f"{schema.STATUS}/state",):
                raise MissingDataError("no chain has finished")
            schema.check(finished, check.requires, needed_by=name)
            findings += check.compute(evidence)
        except MissingDataError as error:
            reasons[name] = str(error)
    return _result(findings, list(checks), reasons, evidence.burnin)


def _result(findings: list[Finding], checks: list[str], reasons: dict[str, str], burnin: int) -> xr.Dataset:
    ordered = sorted(findings, key=lambda each: -SEVERITIES.index(each.severity))
    verdict = max((each.severity for each in findings), key=SEVERITIES.index, default=SEVERITIES[0])
    columns = {
        name: ("finding", np.array([getattr(each, name) for each in ordered], dtype=dtype))
        for name, dtype in _FIELDS.items()
    }
    return xr.Dataset(
        {
            **columns,
            "looked_at": ("check", np.array([name not in reasons for name in checks], dtype=bool)),
            "reason": ("check", np.array([reasons.get(name, "") for name in checks], dtype=object)),
            "verdict": verdict,
        },
        coords={"finding": np.arange(len(ordered)), "check": np.array(checks, dtype=object)},
        attrs={"verdict": verdict, "burnin": burnin},
    )
