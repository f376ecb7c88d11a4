"""What every sampling kernel must hold to; subclass it for your own."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.kernels import build_transition
from devinterp.testing.quadratics import Quadratic, Tensors, random_quadratic, time_averages
from devinterp.types import Kernel, StepInputs, Target, Transition

#: Shapes of the sampled parameters: a vector, a matrix, and a scalar.
_SHAPES = ((3,), (2, 2), ())


class KernelTests:
    r"""Tests of a `Kernel`, run by pytest on a subclass that names it.

    Set `kernel`, and `options` for options other than the defaults::

        class TestMyKernel(KernelTests):
            kernel = devinterp_kernels()[0]

    A thousand independent chains are run on a quadratic loss, and the mean and variance of their weights compared with the
    stationary law: within five Monte Carlo standard errors, in each coordinate and over all, where an error in the variance
    of `precision` would be seen. A kernel whose variance at a finite step is known states it in `stationary_variance`.
    Otherwise the chains are run at `lr` and at half of it, and what the two extrapolate to is compared with the target.
    """

    #: The kernel under test.
    kernel: ClassVar[Kernel]
    #: Its options, ``sampling_method_kwargs``.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Step size of the law, and steps after which the start is forgotten. Curvatures of the target lie between 11 and 46.
    lr: ClassVar[float] = 5e-3
    num_steps: ClassVar[int] = 400
    #: Steps of the law that are averaged, and parallel chains.
    num_measured_steps: ClassVar[int] = 1500
    num_chains: ClassVar[int] = 1024
    #: The relative error of the variance, over all coordinates, that the test must be able to see.
    precision: ClassVar[float] = 0.02
    #: What the mean, in standard deviations, and the variance, relatively, may be off beyond the Monte Carlo error: for
    #: kernels whose law is known approximately only.
    bias: ClassVar[float] = 0.0
    #: The posterior of all tests.
    target: ClassVar[Target] = Target(n_beta=10.0, localization=5.0, weight_decay=1.0)

    def build(self, **changes: Any) -> Transition:
        """Return the kernel with its options, and any changes to them."""
        return build_transition(self.kernel, self.target, **{"lr": self.lr, **self.options, **changes})

    def stationary_variance(self, curvature: Tensor) -> Tensor | None:
        """Return the exact variance of the discretised chain at step size `lr`, or None where it is not known.

        Parameters
        ----------
        curvature : torch.Tensor
            Second derivatives of the potential, ``n_beta h + localization + weight_decay``, ``(coordinate,)``. The variance
            of the target is ``1 / curvature``.
        """
        return None

    def quadratic(self) -> Quadratic:
        """Return the loss of all tests."""
        return random_quadratic(_SHAPES)

    def run(
        self, transition: Transition, values: Tensors, state: dict[str, Tensors], num_steps: int, seed: int = 0
    ) -> None:
        """Move `values` and `state` on the quadratic, in place."""
        for _ in self.quadratic().steps(transition, values, state, num_steps, seed=seed):
            pass

    def step_inputs(self, num_chains: int = 3) -> StepInputs:
        """Return the inputs of a step of chains that have already taken a few."""
        initial_weights, values = self.quadratic().start(num_chains), self.quadratic().start(num_chains)
        transition = self.build()
        state = transition.init(values)
        self.run(transition, values, state, 3)
        generator = torch.Generator().manual_seed(2)
        gradients, noise = ([torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in values] for _ in "gn")
        return StepInputs(values, gradients, initial_weights, state, noise)

    def test_options_are_named_documented_and_optional(self) -> None:
        """``sampling_method_kwargs`` are checked by the signature, and the docstring is their documentation."""
        parameters = list(inspect.signature(self.kernel.build).parameters.values())[1:]
        text = inspect.getdoc(self.kernel.build) or ""
        for parameter in parameters:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"`{parameter.name}` must be a keyword-only parameter"
            assert parameter.name in text, f"`{parameter.name}` is not described in the docstring"
            assert parameter.name == "lr" or parameter.default is not parameter.empty, f"`{parameter.name}`: no default"
        try:
            self.build(no_such_option=1)
        except (TypeError, InvalidInputError):
            return
        raise AssertionError("an option that does not exist must be refused")

    def test_state_is_of_the_chains(self) -> None:
        """Every tensor of the state has the chain dimension, so that chains can be run together or alone."""
        values = self.quadratic().start(3)
        for name, tensors in self.build().init(values).items():
            for tensor in tensors:
                assert tensor.shape[:1] == (3,), f"state {name!r} has shape {tuple(tensor.shape)}: expected (3, ...)"
                assert all(tensor.data_ptr() != value.data_ptr() for value in values), f"state {name!r} is the weights"

    def test_terms_sum_to_the_step(self) -> None:
        """What the metrics measure is what the chain does."""
        step = self.step_inputs()
        before = _copy(step.values)
        terms = self.build().terms(step)
        self.build().update(replace(step, noise=iter(step.noise)))
        for n, (value, start) in enumerate(zip(step.values, before, strict=True)):
            total = torch.stack([term[n].expand_as(value) for term in terms.values()]).sum(0)
            torch.testing.assert_close(value - start, total, rtol=1e-10, atol=1e-12)

    def test_terms_change_nothing(self) -> None:
        """Metrics are measured before the step and must not influence it."""
        step = self.step_inputs()
        before = _copy_step(step)
        self.build().terms(step)
        for now, then in zip(_tensors(step), _tensors(before), strict=True):
            assert torch.equal(now, then)

    def test_updates_in_place(self) -> None:
        """Values may be views of a model's own parameters, strided ones too; the initial weights stay."""
        step = self.step_inputs()
        expected = _copy_step(step)
        initial_weights = _copy(step.initial_weights)
        inside = [torch.full((*value.shape, 2), 7.0, dtype=value.dtype) for value in step.values]
        views = [wide[..., 0].copy_(value) for wide, value in zip(inside, step.values, strict=True)]
        step = replace(step, values=views)
        values, state = list(views), [tensor for tensors in step.state.values() for tensor in tensors]
        self.build().update(expected)
        self.build().update(step)
        state_after = [tensor for tensors in step.state.values() for tensor in tensors]
        assert all(a is b for a, b in zip(step.values, values, strict=True)), "the list of values must keep its tensors"
        assert all(a is b for a, b in zip(state_after, state, strict=True)), "the state must keep its tensors"
        for wide, value in zip(inside, expected.values, strict=True):
            torch.testing.assert_close(wide[..., 0], value)
            assert bool((wide[..., 1] == 7).all())
        assert all(torch.equal(a, b) for a, b in zip(step.initial_weights, initial_weights, strict=True))

    def test_draws_noise_once_for_each_parameter(self) -> None:
        """Noise comes from a generator: drawing it twice, or not at all, would shift the stream of every later step."""
        step = self.step_inputs()
        noise = _CountedNoise(list(step.noise))
        self.build().update(replace(step, noise=noise))
        assert noise.num_iterations == 1, f"`noise` was iterated {noise.num_iterations} times, expected once"
        assert noise.num_drawn == len(step.values), (
            f"noise was drawn for {noise.num_drawn} of {len(step.values)} parameters"
        )

    def test_chains_do_not_mix(self) -> None:
        """A chain run beside others is the chain run alone."""
        together = self.step_inputs(num_chains=3)
        alone = [_copy_step(together, slice(chain, chain + 1)) for chain in range(3)]
        self.build().update(together)
        for chain, single in enumerate(alone):
            self.build().update(single)
            moved, expected = (
                [*step.values, *(t for ts in step.state.values() for t in ts)] for step in (together, single)
            )
            for a, b in zip(moved, expected, strict=True):
                torch.testing.assert_close(a[chain], b[0], rtol=1e-12, atol=1e-14)

    def test_all_it_remembers_is_its_state(self) -> None:
        """A chain resumed from stored values and state goes on as if it had not been interrupted."""
        values = self.quadratic().start(2)
        first = self.build()
        state = first.init(values)
        self.run(first, values, state, 5)
        stored, stored_state = _copy(values), {name: _copy(each) for name, each in state.items()}
        self.run(first, values, state, 5, seed=9)
        self.run(self.build(), stored, stored_state, 5, seed=9)
        assert all(torch.equal(a, b) for a, b in zip(values, stored, strict=True))

    def test_follows_its_law_on_a_quadratic(self) -> None:
        """Mean and variance over many chains are those of the stationary law."""
        _, curvature = self.quadratic().mean_and_curvature(self.target)
        deviations, squares = self._time_averages(1)
        variance = self.stationary_variance(curvature)
        if variance is None:
            finer_deviations, finer_squares = self._time_averages(2)
            deviations, squares = 2 * finer_deviations - deviations, 2 * finer_squares - squares
            variance = 1 / curvature
        for name, averages in (("mean", deviations / variance.sqrt()), ("variance", squares / variance - 1)):
            error, error_of_all = (each.std(0) / self.num_chains**0.5 for each in (averages, averages.mean(1)))
            off, off_of_all = averages.mean(0), averages.mean()
            assert name == "mean" or 5 * float(error_of_all) < self.precision, (
                f"five standard errors of the variance are {5 * float(error_of_all):.3f}, more than `precision` "
                f"(={self.precision}): raise `num_measured_steps` or `num_chains`"
            )
            assert bool((off.abs() < self.bias + 5 * error).all()), f"the {name} is off by {off} ± {error} of its scale"
            assert abs(float(off_of_all)) < self.bias + 5 * float(error_of_all), (
                f"over all coordinates the {name} is off by {off_of_all:.4f} ± {error_of_all:.4f} of its scale"
            )

    def _time_averages(self, refinement: int) -> tuple[Tensor, Tensor]:
        """Return deviations and their squares at a step that many times smaller than `lr`."""
        return time_averages(
            self.build(lr=self.lr / refinement),
            self.quadratic(),
            self.target,
            num_chains=self.num_chains,
            num_burnin_steps=refinement * self.num_steps,
            num_steps=refinement * self.num_measured_steps,
            seed=refinement,
        )


class _CountedNoise:
    """Noise that counts how often it is iterated and how many tensors are drawn."""

    def __init__(self, noise: Tensors) -> None:
        self._noise, self.num_iterations, self.num_drawn = noise, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.num_iterations += 1
        for tensor in self._noise:
            self.num_drawn += 1
            yield tensor


def _copy(tensors: Iterable[Tensor], chains: slice = slice(None)) -> Tensors:
    return [tensor[chains].clone() for tensor in tensors]


def _copy_step(step: StepInputs, chains: slice = slice(None)) -> StepInputs:
    return StepInputs(
        values=_copy(step.values, chains),
        gradients=_copy(step.gradients, chains),
        initial_weights=_copy(step.initial_weights, chains),
        state={name: _copy(tensors, chains) for name, tensors in step.state.items()},
        noise=_copy(step.noise, chains),
    )


def _tensors(step: StepInputs) -> Tensors:
    lists = [step.values, step.gradients, step.initial_weights, *step.state.values(), step.noise]
    return [tensor for tensors in lists for tensor in tensors]
