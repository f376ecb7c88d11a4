"""Kernels written before `StepInputs`, whose steps take five lists, keep working and are told what to change."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import Kernel, StepInputs, Target, plugins, sample
from devinterp.kernels import build, build_transition
from devinterp.testing import KernelTests


class FiveArguments:
    """SGLD as a third party would have written it."""

    def __init__(self, target, lr):
        self.target, self.lr = target, lr

    def init(self, values):
        return {}

    def update(self, values, gradients, origin, state, noise):
        for n, xi in enumerate(noise):
            terms = self.terms([values[n]], [gradients[n]], [origin[n]], state, [xi])
            values[n].add_(sum(parts[0] for parts in terms.values()))

    def terms(self, values, gradients, origin, state, noise):
        t, half = self.target, self.lr / 2
        return {
            "gradient": [-half * t.n_beta * g for g in gradients],
            "localization": [-half * t.localization * (w - w0) for w, w0 in zip(values, origin, strict=True)],
            "weight_decay": [-half * t.weight_decay * w for w in values],
            "noise": [self.lr**0.5 * xi for xi in noise],
        }


def build_it(target, *, lr):
    """Build SGLD with step size `lr`."""
    return FiveArguments(target, lr)


KERNEL = Kernel(name="of_five", build=build_it)
MESSAGE = r"kernel 'of_five': .*take `values, gradients, origin, state, noise`.*let them take one argument `step`"


@pytest.fixture(autouse=True)
def not_warned_yet():
    build._warn.cache_clear()


@pytest.mark.filterwarnings("ignore:kernel 'of_five'.*:DeprecationWarning")
class TestOfFiveArguments(KernelTests):
    kernel = KERNEL


def test_it_is_told_once_what_to_change():
    with pytest.warns(DeprecationWarning, match=MESSAGE):
        build_transition(KERNEL, Target(n_beta=1.0), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_transition(KERNEL, Target(n_beta=1.0), lr=0.1)


def test_kernels_of_one_argument_are_left_as_they_are():
    class Any(FiveArguments):
        def update(self, *args):
            """Take whatever comes."""

    for kernel in (plugins.kernel("sgld"), Kernel(name="any", build=lambda target, *, lr: Any(target, lr))):
        transition = build_transition(kernel, Target(n_beta=1.0), lr=0.1)
        assert type(transition) is type(kernel.build(Target(n_beta=1.0), lr=0.1))


def test_its_steps_are_those_of_sgld():
    target = Target(n_beta=20.0, localization=3.0, weight_decay=0.7)
    with pytest.warns(DeprecationWarning, match=MESSAGE):
        kernels = [build_transition(each, target, lr=0.01) for each in (KERNEL, plugins.kernel("sgld"))]
    w, g, w0, xi = torch.randn((4, 2, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = [StepInputs([w.clone()], [g], [w0], kernel.init([w]), [xi]) for kernel in kernels]
    terms = [kernel.terms(step) for kernel, step in zip(kernels, steps, strict=True)]
    for kernel, step in zip(kernels, steps, strict=True):
        kernel.update(step)
    torch.testing.assert_close(steps[0].values, steps[1].values)
    torch.testing.assert_close(terms[0], terms[1])


def test_a_run_with_it_is_a_run_with_sgld(monkeypatch):
    def run(**options):
        model, x = nn.Linear(3, 1), torch.linspace(-1, 1, 24).view(8, 3)
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.5)
        return sample(
            model.eval(), x, loss_fn=lambda model, x: model(x).square().mean(1), lr=0.01, n_beta=5.0, localization=2.0,
            num_chains=2, num_draws=5, batch_size=4, save_metrics=True, progress=False, **options,
        )  # fmt: skip

    expected = run()
    monkeypatch.setattr(plugins, "kernel", lambda name: KERNEL)
    with pytest.warns(DeprecationWarning, match=MESSAGE) as record:
        tree = run(sampling_method="of_five")
    assert len(record) == 1
    np.testing.assert_allclose(tree["trace/loss"], expected["trace/loss"], rtol=1e-5)
    np.testing.assert_allclose(tree["metrics/noise"], expected["metrics/noise"], rtol=1e-5)
