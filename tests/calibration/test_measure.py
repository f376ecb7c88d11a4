"""Curvature and gradient noise are what they are known to be, under restrictions too, and nothing of the model changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from devinterp.calibration.measure import curvature_at, measure
from devinterp.calibration.measured import Measured
from devinterp.calibration.request import Request, measuring_settings
from devinterp.calibration.subject import Subject
from support.bowls import Bowl, bowl_loss, rows


def request(batch_size: int = 8) -> Request:
    return Request.of("sgld", 100.0, None, None, batch_size, num_chains=2, error=0.1, max_gradients=1000, init_seed=3)


def measured(data: Any, loss: Any, n_betas: tuple[float, ...] = (100.0,), **others: Any) -> list[Measured]:
    subject = Subject({"": Bowl(others.pop("centre", 0.0))}, data, loss_fn=loss, **others)
    with subject.spec("", measuring_settings(request())) as spec:
        return measure(spec, n_betas)


def test_a_quadratic() -> None:
    (one,) = measured(rows(noise=0.3, num=64), bowl_loss())
    assert one.h_max == pytest.approx(1.0, rel=0.02)
    assert one.curvature(100.0) == pytest.approx(1.0, rel=0.02)
    assert (one.num_parameters, one.checkpoint) == (4, "")
    # 8 pairs of minibatches of 8 of 64 rows: the difference of two that share no row.
    assert one.noise == pytest.approx(0.09, rel=0.5)
    assert abs(one.gradient_square) < 0.03
    assert Measured.from_json(one.to_json()) == one


def test_gradients_have_no_noise_where_every_step_has_all_rows() -> None:
    (one,) = measured(rows(num=8, noise=0.3), bowl_loss())
    assert one.noise == 0.0
    assert one.noise_along == 0.0


def test_noise_of_many_rows_along_the_stiffest_direction() -> None:
    data = (torch.randn((128, 4), generator=torch.Generator().manual_seed(1)) * torch.tensor([3.0, 1, 1, 1]),)
    noises = []
    for seed in range(6):
        subject = Subject({"": Bowl()}, data, loss_fn=bowl_loss())
        settings = measuring_settings(
            Request.of("sgld", 1.0, None, None, 8, num_chains=2, error=0.1, max_gradients=1000, init_seed=seed)
        )
        with subject.spec("", settings) as spec:
            [one] = measure(spec, (1.0,))
            noises.append((one.noise, one.noise_along))
    mean = np.mean(noises, 0)
    error = np.std(noises, 0, ddof=1) / math.sqrt(6)
    assert (abs(mean - [12 / 4, 9]) < 4 * error).all()


def test_each_restriction_has_its_own() -> None:
    whole, first, second = measured(
        rows(),
        bowl_loss(),
        weight_restrictions={"all": None, "first": "first", "second": {"second": torch.tensor([True, False])}},
    )
    assert [each.num_parameters for each in (whole, first, second)] == [4, 2, 1]
    assert [each.h_max for each in (whole, first, second)] == pytest.approx([1.0, 1.0, 0.25], rel=0.02)


def test_the_largest_and_not_the_one_of_the_largest_size() -> None:
    (one,) = measured(rows(), bowl_loss(curvatures=((-1.0, 0.5), (0.1, 0.2))))
    assert one.h_max == pytest.approx(0.5, rel=0.05)


def test_a_loss_that_grows_like_a_power_is_measured_where_chains_go() -> None:
    # Over a way r to either side h w^4 / 2 has the mean second derivative 2 h r^2, where r is 3 / sqrt(n_beta times that).
    (one,) = measured(rows(), bowl_loss(4), (100.0, 10_000.0))
    assert one.h_max < 1e-4
    for n_beta in (100.0, 10_000.0):
        assert one.curvature(n_beta) == pytest.approx(math.sqrt(2 * 9 / n_beta), rel=0.05)


def test_the_gradient_where_there_is_one() -> None:
    (one,) = measured(rows(noise=0.05), bowl_loss(), centre=1.0)
    assert one.gradient_square == pytest.approx(1 + 0.25 + 0.0625 + 0.36, rel=0.05)


def test_curvature_where_chains_are() -> None:
    subject = Subject(
        {"": Bowl()}, rows(), loss_fn=bowl_loss(4), weight_restrictions={"first": "first", "second": "second"}
    )
    ends = {
        0: [[np.array([0.1, 0.0], np.float32)], [np.array([0.0, 0.3], np.float32)]],
        1: [[np.array([0.2, 0.0], np.float32)]],
    }
    with subject.spec("", measuring_settings(request())) as spec:
        curvatures, num = curvature_at(spec, ends)
    assert curvatures == pytest.approx({"first": 6 * 0.5 * 0.09, "second": 6 * 0.25 * 0.04}, rel=0.02)
    assert num > 0


def test_the_model_is_as_it_was() -> None:
    model = Bowl(0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    subject = Subject({"": model}, rows(), loss_fn=bowl_loss())
    with subject.spec("", measuring_settings(request())) as spec:
        measure(spec, (1.0,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
