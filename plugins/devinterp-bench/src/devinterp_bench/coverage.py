r"""How often stated 95 % intervals of real runs with minibatches hold the mean that they estimate.

The targets are noisy, so that minibatches give gradients noise at the weights, too. What a run with minibatches of a certain
size estimates is not known exactly; the mean over all replicas stands in for it, from which a replica differs by its own error
and a little less. Each replica is a run of its own, with its own order of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.llc import compute_llc
from devinterp.slt.sampling import sample
from devinterp_bench.problems import DeepLinear, Linear, squared_error

#: Step sizes with the same way in a flat direction, at which minibatch noise adds about a tenth to every variance.
LRS = {"sgld": 1.5e-3, "baoab": 1.5e-4}
#: Seeds of replicas are this far apart, so that no two chains share noise (the noise of chain c has the seed of its run + c).
_SEED_STEP = 1000


@dataclass(frozen=True)
class NoisyProblem:
    """A regression with noisy targets, of which minibatches are drawn.

    Parameters
    ----------
    name : str
        Name of the problem.
    model : callable
        Makes the model, at the true weights.
    num_inputs, num_outputs : int
        Shapes of the data.
    num_samples, batch_size : int
        Rows of the data, and of a minibatch.
    n_beta, localization : float
        Settings of the posterior.
    """

    name: str
    model: Callable[[], nn.Module]
    num_inputs: int
    num_outputs: int
    num_samples: int = 512
    batch_size: int = 32
    n_beta: float = 1000.0
    localization: float = 10.0

    def data(self) -> tuple[Tensor, Tensor]:
        """Return inputs and noisy targets."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(self.num_samples, self.num_inputs, generator=generator)
        noise = torch.randn(self.num_samples, self.num_outputs, generator=generator)
        with torch.no_grad():
            return inputs, self.model()(inputs) + noise


@dataclass(frozen=True)
class Covered:
    """How often intervals of one kernel on one problem held the mean of all replicas.

    Parameters
    ----------
    problem, kernel, minibatches, estimate : str
        The problem, the sampling method, whether chains share minibatches, and which of the estimates.
    replicas : int
        Number of runs.
    held : float
        Share of 95 % intervals that held the mean.
    mean, stated, true : float
        Mean estimate; root mean square of stated standard errors; standard deviation of the estimates.
    """

    problem: str
    kernel: str
    minibatches: str
    estimate: str
    replicas: int
    held: float
    mean: float
    stated: float
    true: float


def noisy_problems() -> list[NoisyProblem]:
    """Return a regular and a singular problem."""
    return [
        NoisyProblem("linear regression, d=8", lambda: Linear(torch.linspace(-1, 1, 8)[None]), 8, 1),
        NoisyProblem("4-3-4 rank 1", lambda: DeepLinear((4, 3, 4), 1), 4, 4),
    ]


def coverage(
    problem: NoisyProblem, kernel: str, replicas: int, *, shared: bool = True, num_chains: int = 4, num_draws: int = 200
) -> Iterator[Covered]:
    """Yield the coverage of the paired estimate, and of that from one value of L(w0).

    Parameters
    ----------
    problem : NoisyProblem
        What is sampled.
    kernel : str
        The sampling method, one of `LRS`.
    replicas : int
        Number of runs.
    shared : bool, default: True
        Whether the chains of a run see the same minibatches.
    num_chains, num_draws : int, default: 4, 200
        Chains of a run, and draws of each.
    """
    runs = [_run(problem, kernel, number * _SEED_STEP, shared, num_chains, num_draws) for number in range(replicas)]
    results = [compute_llc(run) for run in runs]
    for name in ("paired_llc_mean", "llc_mean"):
        means = np.array([float(result[name]) for result in results])
        stated = np.array([float(result[name.replace("mean", "se")]) for result in results])
        intervals = [confidence_interval(result, name) for result in results]
        held = [float(each["lower"]) <= means.mean() <= float(each["upper"]) for each in intervals]
        yield Covered(
            problem=problem.name,
            kernel=kernel,
            minibatches="shared" if shared else "own",
            estimate=name,
            replicas=replicas,
            held=float(np.mean(held)),
            mean=float(means.mean()),
            stated=math.sqrt(float((stated**2).mean())),
            true=float(means.std(ddof=1)),
        )


def _run(problem: NoisyProblem, kernel: str, seed: int, shared: bool, num_chains: int, num_draws: int) -> xr.DataTree:
    tree = sample(
        problem.model(),
        problem.data(),
        lr=LRS[kernel],
        n_beta=problem.n_beta,
        localization=problem.localization,
        num_chains=num_chains,
        num_draws=num_draws,
        num_burnin_steps=100,
        batch_size=problem.batch_size,
        num_init_loss_batches=problem.num_samples // problem.batch_size,
        init_seed=seed,
        match_sampling_input_ids_across_chains=shared,
        loss_fn=squared_error,
        sampling_method=kernel,
        paired=True,
        chains="vectorized",
        progress=False,
    )
    assert isinstance(tree, xr.DataTree)
    return tree


COVERAGE_COLUMNS = (
    "problem",
    "kernel",
    "minibatches",
    "estimate",
    "mean",
    "stated error",
    "true error",
    "95 % interval holds",
)


def coverage_rows(measured: Sequence[Covered]) -> list[list[str]]:
    """Return the rows of a table with `COVERAGE_COLUMNS`; the share that is held has its binomial error."""
    return [
        [
            each.problem,
            each.kernel,
            each.minibatches,
            each.estimate,
            f"{each.mean:.3g}",
            f"{each.stated:.2g}",
            f"{each.true:.2g}",
            f"{each.held:.1%} ± {math.sqrt(each.held * (1 - each.held) / each.replicas):.1%}",
        ]
        for each in measured
    ]
