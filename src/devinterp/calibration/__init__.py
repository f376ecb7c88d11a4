"""Choose the settings of a run, or refuse: `calibrate`.

`procedure` leads through the files in this order: `request` (what may be tried), `subject` (what is sampled), `measure`
(curvature and gradient noise at w0), `laws` (the greatest step of a kernel), `grid` (settings in order), `short_runs` and
`judged` (runs and what is said against them), `agreement` (half the step), `search` (what to try next), `lengths` (how long the
real run has to be), `result` and `report`. `record` keeps it all in a store, so that it can go on.
"""

from __future__ import annotations

from devinterp.calibration.procedure import calibrate
from devinterp.calibration.recommendation import Recommendation
from devinterp.calibration.result import Calibration

__all__ = ["Calibration", "Recommendation", "calibrate"]
