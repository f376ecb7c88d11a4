"""What every sampling kernel must hold to; subclass it for your own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.types import Kernel, Target, Transition

Tensors = list[Tensor]

#: Shapes of the parameters that move: a vector, a matrix, and a scalar.
_SHAPES = ((3,), (2, 2), ())


class KernelTests:
    r"""Tests of a `Kernel`, run by pytest on a subclass that names it.

    Set `kernel`, and `options` for options other than the defaults::

        class TestMyKernel(KernelTests):
            kernel = devinterp_kernels()[0]

    Thousands of independent chains are run on a quadratic loss, and the mean and variance of their last states compared
    with the exact law. The tolerance is five Monte Carlo standard errors, plus `bias`. A kernel whose stationary variance
    at a finite step is known overrides `stationary_variance` and sets `bias` to 0.
    """

    #: The kernel under test.
    kernel: ClassVar[Kernel]
    #: Its options, ``sampling_method_kwargs``.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Step size of the law, and steps after which the start is forgotten. Curvatures of the target lie between 11 and 46.
    lr: ClassVar[float] = 2e-3
    num_steps: ClassVar[int] = 1000
    #: Parallel chains of the law.
    num_chains: ClassVar[int] = 4096
    #: What the finite step may add to the mean, in standard deviations, and to the variance, relatively.
    bias: ClassVar[float] = 0.05
    #: The posterior of all tests.
    target: ClassVar[Target] = Target(n_beta=10.0, localization=5.0, weight_decay=1.0)

    def build(self, **changes: Any) -> Transition:
        """Return the kernel with its options, and any changes to them."""
        return self.kernel.build(self.target, **{"lr": self.lr, **self.options, **changes})

    def stationary_variance(self, curvature: Tensor) -> Tensor:
        """Return the variance of every coordinate once the start is forgotten; ``1 / curvature`` is that of the target.

        Parameters
        ----------
        curvature : torch.Tensor
            Second derivatives of the potential, ``n_beta h + localization + weight_decay``.
        """
        return 1 / curvature

    def quadratic(self) -> tuple[Tensors, Tensors, Tensors]:
        """Return starting weights, minima and curvatures of the quadratic loss, of shape ``(1, *shape)`` each."""
        generator = torch.Generator().manual_seed(1)
        origin, minima, curvatures = [], [], []
        for shape in _SHAPES:
            origin.append(torch.randn((1, *shape), generator=generator, dtype=torch.float64))
            minima.append(origin[-1] + 0.3 * torch.randn((1, *shape), generator=generator, dtype=torch.float64))
            curvatures.append(0.5 + 3.5 * torch.rand((1, *shape), generator=generator, dtype=torch.float64))
        return origin, minima, curvatures

    def run(
        self, transition: Transition, values: Tensors, state: dict[str, Tensors], num_steps: int, seed: int = 0
    ) -> None:
        """Move `values` and `state` on the quadratic, in place."""
        origin, minima, curvatures = self.quadratic()
        start = [w.expand_as(value) for w, value in zip(origin, values, strict=True)]
        generator = torch.Generator().manual_seed(seed)
        for _ in range(num_steps):
            gradients = [h * (w - m) for h, w, m in zip(curvatures, values, minima, strict=True)]
            noise = (torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values)
            transition.update(values, gradients, start, state, noise)

    def arguments(self, num_chains: int = 3) -> tuple[Tensors, Tensors, Tensors, dict[str, Tensors], Tensors]:
        """Return values, gradients, origin, state and noise of a chain that has already taken a few steps."""
        origin = [w.expand(num_chains, *w.shape[1:]).clone() for w in self.quadratic()[0]]
        values = _copy(origin)
        transition = self.build()
        state = transition.init(values)
        self.run(transition, values, state, 3)
        generator = torch.Generator().manual_seed(2)
        gradients, noise = ([torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in values] for _ in "gn")
        return values, gradients, origin, state, noise

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
        values = [w.expand(3, *w.shape[1:]).clone() for w in self.quadratic()[0]]
        for name, tensors in self.build().init(values).items():
            for tensor in tensors:
                assert tensor.shape[:1] == (3,), f"state {name!r} has shape {tuple(tensor.shape)}: expected (3, ...)"
                assert all(tensor.data_ptr() != value.data_ptr() for value in values), f"state {name!r} is the weights"

    def test_terms_sum_to_the_step(self) -> None:
        """What the metrics measure is what the chain does."""
        values, gradients, origin, state, noise = self.arguments()
        before = _copy(values)
        terms = self.build().terms(values, gradients, origin, state, noise)
        self.build().update(values, gradients, origin, state, iter(noise))
        for n, (value, start) in enumerate(zip(values, before, strict=True)):
            total = torch.stack([term[n].expand_as(value) for term in terms.values()]).sum(0)
            torch.testing.assert_close(value - start, total, rtol=1e-10, atol=1e-12)

    def test_terms_change_nothing(self) -> None:
        """Metrics are measured before the step and must not influence it."""
        given = self.arguments()
        before = [_copy(each) for each in _flat(given)]
        self.build().terms(*given)
        for now, then in zip(_flat(given), before, strict=True):
            for a, b in zip(now, then, strict=True):
                assert torch.equal(a, b)

    def test_updates_in_place(self) -> None:
        """Values may be views of a model's own parameters, strided ones too; the starting weights stay."""
        values, gradients, origin, state, noise = self.arguments()
        inside = [torch.full((*value.shape, 2), 7.0, dtype=value.dtype) for value in values]
        views = [wide[..., 0].copy_(value) for wide, value in zip(inside, values, strict=True)]
        tensors, start = list(views), _copy(origin)
        expected, expected_state = _copy(values), {name: _copy(each) for name, each in state.items()}
        held = [tensor for each in state.values() for tensor in each]
        self.build().update(expected, _copy(gradients), origin, expected_state, iter(_copy(noise)))
        self.build().update(views, gradients, origin, state, iter(noise))
        assert all(a is b for a, b in zip(views, tensors, strict=True)), "the list of values must keep its tensors"
        assert all(a is b for a, b in zip((t for e in state.values() for t in e), held, strict=True)), "and the state's"
        for wide, value in zip(inside, expected, strict=True):
            torch.testing.assert_close(wide[..., 0], value)
            assert bool((wide[..., 1] == 7).all())
        assert all(torch.equal(a, b) for a, b in zip(origin, start, strict=True))

    def test_draws_noise_once_for_each_parameter(self) -> None:
        """Noise comes from a generator: drawing it twice, or not at all, would shift the stream of every later step."""
        values, gradients, origin, state, noise = self.arguments()
        drawn = _Once(noise)
        self.build().update(values, gradients, origin, state, drawn)
        assert drawn.times == 1, f"`noise` was iterated {drawn.times} times, expected once"
        assert drawn.given == len(noise), f"noise was drawn for {drawn.given} of {len(noise)} parameters"

    def test_chains_do_not_mix(self) -> None:
        """A chain run beside others is the chain run alone."""
        values, gradients, origin, state, noise = self.arguments(num_chains=3)
        alone = [tuple(_chain(each, chain) for each in (values, gradients, origin)) for chain in range(3)]
        states = [{name: _chain(each, chain) for name, each in state.items()} for chain in range(3)]
        noises = [_chain(noise, chain) for chain in range(3)]
        self.build().update(values, gradients, origin, state, iter(noise))
        for chain in range(3):
            value, gradient, start = alone[chain]
            self.build().update(value, gradient, start, states[chain], iter(noises[chain]))
            pairs = [(values, value), *((state[name], states[chain][name]) for name in state)]
            for together, single in pairs:
                for a, b in zip(together, single, strict=True):
                    torch.testing.assert_close(a[chain], b[0], rtol=1e-12, atol=1e-14)

    def test_all_it_remembers_is_its_state(self) -> None:
        """A chain resumed from stored values and state goes on as if it had not been interrupted."""
        values = [w.expand(2, *w.shape[1:]).clone() for w in self.quadratic()[0]]
        first = self.build()
        state = first.init(values)
        self.run(first, values, state, 5)
        stored, stored_state = _copy(values), {name: _copy(each) for name, each in state.items()}
        self.run(first, values, state, 5, seed=9)
        self.run(self.build(), stored, stored_state, 5, seed=9)
        assert all(torch.equal(a, b) for a, b in zip(values, stored, strict=True))

    def test_follows_its_law_on_a_quadratic(self) -> None:
        """Mean and variance over many chains are those of the stationary law."""
        origin, minima, curvatures = self.quadratic()
        values = [w.expand(self.num_chains, *w.shape[1:]).clone() for w in origin]
        transition = self.build()
        self.run(transition, values, transition.init(values), self.num_steps)
        target, num = self.target, self.num_chains
        for value, w0, minimum, h in zip(values, origin, minima, curvatures, strict=True):
            curvature = (target.n_beta * h + target.localization + target.weight_decay)[0]
            mean = (target.n_beta * h * minimum + target.localization * w0)[0] / curvature
            variance = self.stationary_variance(curvature)
            off_mean = (value.mean(0) - mean).abs() / variance.sqrt()
            off_variance = (value.var(0) / variance - 1).abs()
            # Standard errors of the mean, in standard deviations, and of a Gaussian's variance, relatively.
            assert float(off_mean.max()) < self.bias + 5 / num**0.5, f"means are off by {off_mean} standard deviations"
            assert float(off_variance.max()) < self.bias + 5 * (2 / num) ** 0.5, (
                f"variances are off by factors of {1 + off_variance}"
            )


class _Once:
    """Noise that counts how often it is asked for."""

    def __init__(self, noise: Tensors) -> None:
        self._noise, self.times, self.given = noise, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.times += 1
        for tensor in self._noise:
            self.given += 1
            yield tensor


def _copy(tensors: Tensors) -> Tensors:
    return [tensor.clone() for tensor in tensors]


def _chain(tensors: Tensors, chain: int) -> Tensors:
    return [tensor[chain : chain + 1].clone() for tensor in tensors]


def _flat(given: tuple[Any, ...]) -> list[Tensors]:
    values, gradients, origin, state, noise = given
    return [values, gradients, origin, *state.values(), noise]
