"""Singular Learning Theory for neural networks: sample the posterior around trained weights, then analyse the samples.

Importing this package registers the accessor ``tree.slt`` on `xarray.DataTree` and stays cheap: torch, zarr and the
plugins are imported when something needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from devinterp import accessor as _accessor  # noqa: F401  (registers tree.slt)
from devinterp.errors import (
    BrokenChainsError,
    CalibrationRefused,
    DevinterpError,
    InvalidInputError,
    MissingDataError,
    MissingPackageError,
    PluginError,
    PluginWarning,
    StoreError,
    StoreMismatchError,
)
from devinterp.hookspecs import hookimpl
from devinterp.types import (
    Analysis,
    Check,
    Command,
    Draw,
    Finding,
    Kernel,
    ModelAdapter,
    Plot,
    Recorder,
    Recording,
    Snapshot,
    StepInputs,
    Target,
)

if TYPE_CHECKING:
    from devinterp.calibration.procedure import calibrate
    from devinterp.calibration.result import Calibration
    from devinterp.sampling.options import RunOptions
    from devinterp.slt.sampling import sample
    from devinterp.slt.weight_restrictions import create_param_masks, restrictions
    from devinterp.store.reading.open import open as open  # noqa: A004  # the name users expect: devinterp.open(path)
    from devinterp.studies.recorder import TrainingRecorder
    from devinterp.studies.study import study

    __version__: str

# `open` is left out: a star import must not hide the built-in one.
__all__ = [
    "Analysis",
    "BrokenChainsError",
    "Calibration",
    "CalibrationRefused",
    "Check",
    "Command",
    "DevinterpError",
    "Draw",
    "Finding",
    "InvalidInputError",
    "Kernel",
    "MissingDataError",
    "MissingPackageError",
    "ModelAdapter",
    "Plot",
    "PluginError",
    "PluginWarning",
    "Recorder",
    "Recording",
    "RunOptions",
    "Snapshot",
    "StepInputs",
    "StoreError",
    "StoreMismatchError",
    "Target",
    "TrainingRecorder",
    "__version__",
    "calibrate",
    "create_param_masks",
    "hookimpl",
    "restrictions",
    "sample",
    "study",
]

#: What is imported on first use, because it needs torch or zarr, and the module it is in.
_LAZY = {
    "Calibration": "devinterp.calibration.result",
    "RunOptions": "devinterp.sampling.options",
    "calibrate": "devinterp.calibration.procedure",
    "TrainingRecorder": "devinterp.studies",
    "create_param_masks": "devinterp.slt.weight_restrictions",
    "open": "devinterp.store.reading.open",
    "restrictions": "devinterp.slt.weight_restrictions",
    "sample": "devinterp.slt.sampling",
    "study": "devinterp.studies",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        value: object = getattr(import_module(_LAZY[name]), name)
    elif name == "__version__":
        value = import_module("importlib.metadata").version("devinterp")
    else:
        raise AttributeError(f"module 'devinterp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "__version__"})
