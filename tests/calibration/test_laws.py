"""The greatest step is that of the kernels' laws, and what is not known is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from devinterp.calibration.agreement import compare
from devinterp.calibration.grid import Planned, Point, Posterior, first_points, posteriors
from devinterp.calibration.judged import Failure, Figures, Judged
from devinterp.calibration.laws import Law, rounded_down
from devinterp.calibration.lengths import recommend
from devinterp.calibration.measured import Measured
from devinterp.calibration.request import Request
from devinterp.calibration.slope import Slope
from devinterp.errors import InvalidInputError

MEASURED = Measured("", "full", 100, 2.0, {10.0: 2.0, 100.0: 3.0}, 0.0, 0.0, 0.0, 50)
SLOPE = Slope("", "full", 0.1, 0.05)
NOISY = replace(MEASURED, noise=4.0, noise_along=4.0)


def request(**changes: object) -> Request:
    given = {"kernels": "baoab", "n_beta": (10.0, 100.0), "localization": None, "lr": None, "batch_size": 16}
    others = {"num_chains": 2, "error": 0.1, "max_gradients": 1000, "init_seed": 0}
    return Request.of(**{**given, **others, **changes})


def test_a_step_that_curvature_limits() -> None:
    # a = n_beta h + localization = 310; SGLD's bias is x / 4 and may be half of the error.
    assert Law.of("baoab", {}).greatest_lr(MEASURED, 100.0, 10.0, 16, 0.1) == rounded_down(0.5 / 310)
    assert Law.of("sgld", {}).greatest_lr(MEASURED, 100.0, 10.0, 16, 0.1) == rounded_down(0.2 / 310)
    assert Law.of("sghmc", {}).greatest_lr(MEASURED, 100.0, 10.0, 16, 0.1) == rounded_down(0.1 / 2 * 4 * 1.9 / 310)
    assert Law.of("rmsprop_baoab", {"eps": 0.01}).greatest_lr(MEASURED, 100.0, 10.0, 16, 0.1) == rounded_down(
        0.005 / 310
    )


def test_a_step_that_noise_limits() -> None:
    law = Law.of("baoab", {"friction": 0.5})
    lr = law.greatest_lr(NOISY, 100.0, 10.0, 16, 0.1)
    assert 0.095 < law.noise(lr, NOISY, 100.0, 16) <= 0.1
    assert law.noise(lr, NOISY, 100.0, 16) == pytest.approx(3 * lr * 100.0**2 * 4 / 64)
    along = replace(MEASURED, noise=0.0, noise_along=400.0)
    assert 3 * law.greatest_lr(along, 100.0, 10.0, 16, 0.1) * 100.0**2 * 400 / 64 == pytest.approx(1.0, rel=0.1)


def test_how_long_flat_directions_take() -> None:
    assert Law.of("sgld", {}).relaxation(0.01, MEASURED, 10.0, 16) == pytest.approx(20)
    baoab = Law.of("baoab", {})
    assert baoab.relaxation(0.01, MEASURED, 10.0, 16) == pytest.approx(20 / 9 + 5)
    assert baoab.burnin(20 / 9 + 5) == 22
    held = Law.of("rmsprop_leimkuhler_matthews", {"num_adaptation_steps": 50, "eps": 0.1})
    assert held.relaxation(0.01, MEASURED, 10.0, 16) == pytest.approx(2)
    assert held.burnin(2.0) == 56
    # Where gradients are larger than eps, the preconditioner is smaller and flat directions take longer.
    assert held.relaxation(0.01, replace(MEASURED, noise=16.0), 10.0, 16) == pytest.approx(20 * 1.1)


@pytest.mark.parametrize(
    ("kernel", "options"), [("sgnht", {}), ("baoab", {"gradient_noise": 0.01}), ("rmsprop_sghmc", {})]
)
def test_kernels_without_a_known_law(kernel: str, options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="the greatest step of|is not installed"):
        Law.of(kernel, options)


def test_rounding_never_makes_a_step_larger() -> None:
    assert rounded_down(0.00123) == 0.0012
    assert rounded_down(0.0012) == 0.0012
    assert rounded_down(0.00129999) == 0.0012
    assert rounded_down(98.7) == 98.0
    assert rounded_down(math.inf) == math.inf


def test_what_localization_decides_least_comes_first() -> None:
    pairs = posteriors(request(localization=(1.0, 100.0)), [MEASURED], (10.0, 100.0))
    assert pairs == [Posterior(100.0, 1.0), Posterior(10.0, 1.0), Posterior(100.0, 100.0), Posterior(10.0, 100.0)]
    derived = posteriors(request(), [MEASURED], (10.0, 100.0))
    assert derived[:2] == [Posterior(100.0, 0.3), Posterior(10.0, 0.02)]
    assert len(derived) == 12


def test_the_least_batch_that_does_not_make_steps_smaller() -> None:
    law, posterior = Law.of("sgld", {}), Posterior(10.0, 1.0)
    quiet = replace(MEASURED, noise=0.01, noise_along=0.01)
    assert [p.batch_size for p in first_points(request(batch_size=(2, 8, 32)), law, posterior, [quiet])] == [2]
    noisy = replace(MEASURED, noise=100.0, noise_along=100.0)
    assert [p.batch_size for p in first_points(request(batch_size=(2, 8, 32)), law, posterior, [noisy])] == [32]
    assert [p.lr for p in first_points(request(lr=(1e-3, 1e-2)), law, posterior, [noisy])] == [1e-2, 1e-3]


def test_what_needs_no_run_to_be_refused() -> None:
    law = Law.of("sgld", {})
    for lr, localization, measured, code in (
        (0.1, 1.0, MEASURED, "step_too_large"),
        (1e-3, 1.0, replace(MEASURED, noise=1e3), "too_much_noise"),
        (1e-3, 1e-3, MEASURED, "short_burnin"),
    ):
        planned = Planned.of(Point("sgld", {}, lr, 100.0, localization, 16), law, [measured])
        refusal = planned.refusal(10_000)
        assert refusal is not None
        assert refusal[0] == code
    assert Planned.of(Point("sgld", {}, 1e-3, 100.0, 1.0, 16), law, [MEASURED]).refusal(10_000) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_beta": 0.0}, "`n_beta`"),
        ({"lr": -1.0}, "`lr`"),
        ({"localization": "much"}, "`localization`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"num_chains": 1}, "`num_chains`"),
        ({"error": 1.0}, "`error`"),
        ({"max_gradients": 0}, "`max_gradients`"),
        ({"kernels": ()}, "`kernels`"),
    ],
)
def test_what_cannot_be_asked_for(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        request(**changes)


def judged(
    llc: float,
    se: float,
    *failures: Failure,
    autocorrelation: float = 5.0,
    restriction: str = "full",
    common_share: float = 0.0,
) -> Judged:
    figures = {restriction: Figures(llc, se, autocorrelation, 0.0, 0.1, 1.0, common_share)}
    return Judged("", 50, 100, 100, 300, "ok", failures, figures)


def test_half_the_step_must_agree() -> None:
    assert compare([judged(2.0, 0.1)], [judged(2.2, 0.1)], 0.05).agrees
    assert not compare([judged(2.0, 0.05)], [judged(2.2, 0.05)], 0.05).agrees
    # A difference smaller than half of the wanted error does not matter, however certain it is.
    assert compare([judged(2.0, 1e-4)], [judged(2.04, 1e-4)], 0.05).agrees
    assert not compare([judged(2.0, 1.0)], [judged(2.0, 1.0)], 0.05).is_precise
    # Of twenty coefficients one may differ by more than two errors.
    many = [judged(2.0, 0.1, restriction=str(n)) for n in range(20)]
    others = [judged(2.0, 0.1, restriction=str(n)) for n in range(19)] + [judged(2.33, 0.1, restriction="19")]
    assert compare(many, others, 0.05).agrees


def test_which_failure_decides() -> None:
    hot, few = Failure("hot", "warning", ""), Failure("few_draws", "warning", "")
    below = Failure("loss_decreased", "reject", "")
    assert judged(1, 1).outcome == "passed"
    assert judged(1, 1, few).outcome == "length"
    assert judged(1, 1, few, hot).outcome == "step"
    assert judged(1, 1, hot, below).outcome == "posterior"
    assert not judged(1, 1, few, hot).may_pass_when_longer
    assert judged(1, 1, few).is_usable
    assert not judged(1, 1, below).is_usable


def test_how_long_the_run_has_to_be() -> None:
    planned = Planned.of(Point("baoab", {}, 1e-3, 100.0, 10.0, 16), Law.of("baoab", {}), [MEASURED])
    # 200 steps of two chains gave an error of 20 %: 5 % takes sixteen times as many.
    one = recommend(request(error=0.05), planned, [judged(2.0, 0.4)], SLOPE)
    assert one.num_draws * one.num_steps_bw_draws * 2 == pytest.approx(3200, rel=0.05)
    assert one.num_steps_bw_draws == 5
    assert one.num_burnin_steps == math.ceil(4 * planned.relaxation)
    assert one.predicted_gradients == 2 * (one.num_burnin_steps + one.num_draws * one.num_steps_bw_draws)
    # However small the error, there are enough independent draws to know it.
    least = recommend(request(error=0.5), planned, [judged(2.0, 0.01)], SLOPE)
    assert least.num_draws * least.num_steps_bw_draws * 2 >= 250 * 5


@pytest.mark.parametrize(("shares", "own"), [((0.05, 0.1), False), ((0.05, 0.2), True), ((math.nan, 0.1), False)])
def test_chains_get_minibatches_of_their_own_where_shared_ones_are_much_of_the_error(
    shares: tuple[float, ...], own: bool
) -> None:
    planned = Planned.of(Point("baoab", {}, 1e-3, 100.0, 10.0, 16), Law.of("baoab", {}), [MEASURED])
    runs = [judged(2.0, 0.4, restriction=str(n), common_share=share) for n, share in enumerate(shares)]
    settings = recommend(request(), planned, runs, SLOPE).settings
    assert settings["match_sampling_input_ids_across_chains"] is not own
