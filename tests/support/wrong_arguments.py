"""Give every argument of every public function a value that it cannot have, and print what is raised.

``python wrong_arguments.py`` prints one JSON object: for each ``function.argument=value`` the type and text of the error, or
None where there was none. In a process of its own, because the tests' own process checks types at calls, which users' do not.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
import xarray as xr
from torch import nn

import devinterp
from devinterp import plugins
from devinterp.slt.weight_restrictions import create_param_masks, restrictions


class Nonsense:
    """A value that no argument can have."""

    def __repr__(self) -> str:
        return "<nonsense>"


#: Arguments that are True or False, and values that are neither.
FLAGS = {
    "sample": ("dry_run", "virial", "null", "repair", "keep_state", "shuffle", "paired", "progress"),
    "bif": ("average_tokenwise_bif", "compute_covariance", "detrend", "exclude_self", "standard_errors"),
    "susceptibilities": ("z_score", "centre_rows", "include_sampling_task"),
}
NO_FLAGS = ("no", 2, -1, float("nan"), [True])
#: What a call needs beside the argument that is wrong.
NEEDED: dict[str, dict[str, Any]] = {
    "susceptibilities": {"sampling_task": "train", "full": "full"},
    "token_llc": {"observable": "train"},
}


def model_and_data() -> tuple[nn.Module, torch.Tensor]:
    """Return a small language model and its tokens."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11)).eval(), torch.randint(11, (16, 9))


def sampled(**arguments: Any) -> Any:
    """Sample the small model."""
    model, data = model_and_data()
    given: dict[str, Any] = {
        "model": model,
        "dataset": data,
        "observables": {"train": data[:8], "other": data[8:]},
        "lr": 1e-3,
        "n_beta": 10.0,
        "num_chains": 2,
        "num_draws": 4,
        "batch_size": 4,
        "num_init_loss_batches": 2,
        "batches_per_draw": 1,
        "progress": False,
    }
    return devinterp.sample(**{**given, **arguments})


def functions(run: xr.DataTree) -> dict[str, tuple[Callable[..., Any], list[str]]]:
    """Return the public functions, ready to be called with one argument more, and the names of their arguments."""
    model, _ = model_and_data()
    public: dict[str, tuple[Callable[..., Any], list[str]]] = {
        "sample": (sampled, list(inspect.signature(devinterp.sample).parameters)),
        "restrictions": (
            lambda **given: restrictions(**{"model": model, **given}),
            list(inspect.signature(restrictions).parameters),
        ),
        "create_param_masks": (
            lambda **given: create_param_masks(**{"model": model, "restriction": "full", **given}),
            list(inspect.signature(create_param_masks).parameters),
        ),
    }
    for name, analysis in plugins.analyses().items():
        if analysis.compute.__module__.startswith("devinterp.") and not analysis.of_study:  # a study has its own tests
            public[name] = (getattr(run.slt, name), list(inspect.signature(getattr(run.slt, name)).parameters))
    return public


def raised(function: Callable[..., Any], given: dict[str, Any]) -> list[str] | None:
    """Return the type and text of what a call raises."""
    try:
        function(**given)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def main() -> None:
    """Print what each call raises."""
    warnings.simplefilter("ignore")
    run = sampled(weight_restrictions={"full": None, "embed": "embed"})
    errors: dict[str, list[str] | None] = {}
    for name, (function, arguments) in functions(run).items():
        needed = NEEDED.get(name, {})
        for argument in arguments:
            values = (Nonsense(), *(NO_FLAGS if argument in FLAGS.get(name, ()) else ()))
            for value in values:
                errors[f"{name}.{argument}={value!r}"] = raised(function, {**needed, argument: value})
        if needed:
            errors[f"{name}.{next(iter(needed))} missing"] = raised(function, {})
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
