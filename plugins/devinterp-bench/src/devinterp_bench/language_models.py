"""Language models on which kernels are compared: one trained on the spot, and SmolLM2-135M with one layer sampled.

Their learning coefficients are not known; a long chain of BAOAB at a small step stands in for the truth.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr

from devinterp import sources
from devinterp.analyses.llc import compute_llc
from devinterp.errors import DivergenceWarning
from devinterp.slt.sampling import sample
from devinterp.tiny_model import tiny_model
from devinterp_bench.efficiency import Case, Trial, trial_of


@dataclass(frozen=True)
class LanguageProblem:
    """A language model, its data, and the settings at which kernels are compared.

    Parameters
    ----------
    name : str
        Name of the problem.
    load : callable
        Returns model and token sequences.
    batch_size : int
        Sequences of a minibatch; every chain has its own.
    n_beta, localization : float
        Settings of the posterior.
    restriction : str, optional
        The weight restriction. None samples all weights.
    num_burnin_steps, num_draws : int
        Steps of each of two chains that are left out, and draws.
    reference : Case
        The long chain, with one step.
    cases : tuple of Case
        The kernels, SGLD first, with their steps: values of `lr`.
    """

    name: str
    load: Callable[[], tuple[Any, Any]]
    batch_size: int
    n_beta: float
    localization: float
    restriction: str | None
    num_burnin_steps: int
    num_draws: int
    reference: Case
    cases: tuple[Case, ...]


#: Chains of each trial.
NUM_CHAINS = 2
_FIXED = "fixed"


def run_trial(problem: LanguageProblem, model: Any, data: Any, case: Case, lr: float) -> Trial:
    """Sample a language model with a kernel at one step size.

    The estimate is the paired learning coefficient of all steps. Effective draws are those of the loss of one minibatch of
    fixed sequences, because the noise of which sequences a step sees would pass for fast mixing.
    """
    num_draws = case.num_draws or problem.num_draws
    burnin = case.num_burnin_steps or problem.num_burnin_steps
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # reported as a number
        tree = sample(
            model,
            data,
            {_FIXED: (data, 1)},
            lr=lr,
            n_beta=problem.n_beta,
            localization=problem.localization,
            param_masks=problem.restriction,
            num_chains=NUM_CHAINS,
            num_draws=num_draws,
            num_burnin_steps=burnin,
            num_steps_bw_draws=case.spacing,
            batch_size=problem.batch_size,
            num_init_loss_batches=1,
            sampling_method=case.kernel,
            sampling_method_kwargs=dict(case.options),
            match_sampling_input_ids_across_chains=False,
            record="sequence",
            paired=True,
            progress=False,
        )
    seconds = (time.process_time() - began) / (NUM_CHAINS * (burnin + num_draws * case.spacing))
    assert isinstance(tree, xr.DataTree)
    if not bool((tree["status/error"] == "").all()):
        return trial_of(problem.name, case, lr, np.full((NUM_CHAINS, num_draws), np.nan), np.nan, np.nan, seconds)
    result = compute_llc(tree)
    losses = tree[f"observables/{_FIXED}/loss"].squeeze("restriction")
    series = losses.mean([dim for dim in losses.dims if dim not in ("chain", "draw")]).values.astype(np.float64)
    return trial_of(
        problem.name, case, lr, series, float(result["paired_llc_mean"]), float(result["paired_llc_se"]), seconds
    )


def _small() -> tuple[Any, Any]:
    torch.set_num_threads(1)  # tensors this small gain nothing from threads that wait for each other
    model, tokenizer = tiny_model(length=64)
    return model, sources.load_sequences(sources.PROSE, tokenizer, length=64, limit=512)


def _smollm2(limit: int) -> tuple[Any, Any]:
    model, tokenizer = sources.load_model(sources.SMOLLM2)
    return model, sources.load_sequences(sources.PROSE, tokenizer, length=64, limit=limit)


SMALL = LanguageProblem(
    name="small language model",
    load=_small,
    batch_size=16,
    n_beta=100.0,
    localization=300.0,
    restriction=None,
    num_burnin_steps=100,
    num_draws=1000,
    reference=Case("baoab", {"friction": 0.2}, (1e-4,), num_burnin_steps=150, num_draws=1200),
    cases=(
        Case("sgld", {}, (1e-4, 1.5e-4, 2e-4), num_burnin_steps=300, num_draws=500, spacing=5),
        Case("leimkuhler_matthews", {}, (5e-4, 1e-3)),
        Case("baoab", {"friction": 0.2}, (2.5e-4, 4e-4)),
        Case("baoab", {"friction": 0.5}, (5e-4, 1e-3)),
        Case("sghmc", {"friction": 0.1}, (1e-4, 2e-4)),
        Case("sgnht", {"diffusion": 0.2}, (2.5e-4,)),
        Case("rmsprop_sgld", {"eps": 0.1}, (1e-5, 2e-5), num_burnin_steps=300, num_draws=500, spacing=5),
        Case("rmsprop_baoab", {"friction": 0.2, "eps": 0.1}, (2.5e-5, 4e-5), num_burnin_steps=300),
    ),
)

#: Its last layer; the layers before it are constant, and are computed once for each row.
SMOLLM2 = LanguageProblem(
    name="SmolLM2-135M, layer 29",
    load=partial(_smollm2, 64),
    batch_size=2,
    n_beta=30.0,
    localization=1000.0,
    restriction="l29",
    num_burnin_steps=60,
    num_draws=300,
    reference=Case("baoab", {"friction": 0.2}, (2e-5,), num_burnin_steps=150, num_draws=1500),
    cases=(
        Case("sgld", {}, (5e-5, 1e-4), num_burnin_steps=100, num_draws=300, spacing=5),
        Case("baoab", {"friction": 0.2}, (5e-5, 1e-4)),
        Case("baoab", {"friction": 0.5}, (2e-4, 5e-4)),
    ),
)

#: The same layer with eight times as many sequences in a minibatch and in the data: minutes on a GPU, many hours on two cores.
SMOLLM2_LARGER_BATCHES = replace(
    SMOLLM2,
    name="SmolLM2-135M, batches of 16",
    load=partial(_smollm2, 512),
    batch_size=16,
    reference=Case("baoab", {"friction": 0.2}, (5e-5,), num_burnin_steps=150, num_draws=4000),
    cases=(
        Case("sgld", {}, (5e-5, 1e-4, 2e-4), num_burnin_steps=300, num_draws=1000, spacing=5),
        Case("baoab", {"friction": 0.2}, (1e-4, 2e-4, 4e-4), num_burnin_steps=100, num_draws=1500),
        Case("baoab", {"friction": 0.5}, (2e-4, 5e-4), num_burnin_steps=100, num_draws=1500),
    ),
)

PROBLEMS = (SMALL, SMOLLM2, SMOLLM2_LARGER_BATCHES)
