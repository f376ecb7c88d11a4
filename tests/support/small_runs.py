"""Small runs, and ways to end them early, that the tests of durability share."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from devinterp import sample
from support.small_models import TinyModel, ids, make

RESTRICTIONS = {"full": None, "mix": {"mix.weight": torch.ones(6, 6, dtype=torch.bool)}}
BASE: dict[str, Any] = {
    "lr": 1e-3,
    "n_beta": 20.0,
    "localization": 5.0,
    "num_chains": 2,
    "num_draws": 6,
    "num_burnin_steps": 3,
    "num_steps_bw_draws": 2,
    "batch_size": 4,
    "num_init_loss_batches": 2,
    "batches_per_draw": 1,
    "save_metrics": True,
    "weight_restrictions": RESTRICTIONS,
    "chains": "sequential",
    "progress": False,
    "checkpoint_share": 1.0,  # as often as possible
}


def run(path: Any = None, model: nn.Module | None = None, dataset: Any = None, **changes: Any) -> xr.DataTree:
    """Sample the recorded problem with an observable, metrics and two restrictions."""
    observables = changes.pop("observables", {"watched": ids("train")})
    settings = {**BASE, **changes}
    return sample(
        make() if model is None else model,
        ids() if dataset is None else dataset,
        observables,
        output_path=path,
        **settings,
    )


class Ended(Exception):  # noqa: N818  # no error: what the test wants
    """Ends a run at some step, as a crash would."""


_TRIED_ROWS = 2  # before a run its loss is tried on so many rows


class Tally:
    """A count that is no attribute of a model, whose own attributes a run puts back."""

    def __init__(self) -> None:
        self.taken = 0


class Countdown(TinyModel):
    """The same model, which counts its gradients and calls a function at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tally, self.at, self.action = Tally(), -1, lambda: None

    @property
    def taken(self) -> int:
        """Return how many gradients were taken."""
        return self.tally.taken

    def count(self, num_rows: int) -> None:
        """Count a pass through the model, if it is one for a gradient of a step, and call the function when it is due."""
        if torch.is_grad_enabled() and num_rows > _TRIED_ROWS:
            self.tally.taken += 1
            if self.taken == self.at:
                self.action()

    def forward(self, ids: Tensor) -> Tensor:
        self.count(len(ids))
        return super().forward(ids)


Countdown.__qualname__ = TinyModel.__qualname__  # a run is known by the class of its model, too


def counting(at: int = -1, action: Callable[[], None] = lambda: None) -> Countdown:
    """Return a model that counts its gradients (`taken`), and calls a function at that of this number."""
    model = make(Countdown)
    assert isinstance(model, Countdown)
    model.at, model.action = at, action
    return model


def crash() -> None:
    """End the run, as an action of `counting`."""
    raise Ended


def in_child(function: Callable[[], object]) -> int:
    """Run a function in a fork of this process; return its number at once."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """Return how a child ended: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(path: Path) -> dict[str, bytes]:
    """Return what is in a directory, by path, to see that nothing of it was changed."""
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
