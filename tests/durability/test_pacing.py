"""How often states are saved, by a clock that the test turns."""

from __future__ import annotations

import threading

import pytest

from devinterp.errors import InvalidInputError
from devinterp.sampling.chains import checkpointing as pacing
from devinterp.sampling.chains.checkpointing import TimeBudget


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


@pytest.mark.parametrize("share", [0.01, 0.03, 0.5])
@pytest.mark.parametrize("cost", [0.001, 0.4, 30.0])
def test_the_share_is_kept(clock: Clock, share: float, cost: float) -> None:
    pacer, spent, saved, began = TimeBudget(int(1e6), share=share), 0.0, 0, clock.now
    while saved < 30:
        clock.now += cost / 3
        if pacer.is_due(last=False):
            pacer.copied(cost / 4)
            clock.now += cost / 4  # chains wait for the copy, not for the writing
            pacer.written(cost * 3 / 4)
            spent, saved = spent + cost, saved + 1
    # The first comes when its guessed cost fits; all others when theirs does.
    assert (spent - cost) / (clock.now - began) <= share * 1.001
    # And not much rarer than that: a step before and after each.
    assert (clock.now - began) <= (0.015 / share) + 31 * (cost / share + 2 * cost)


def test_one_at_a_time(clock: Clock) -> None:
    pacer = TimeBudget(0, share=0.5)
    clock.now += 1000
    assert pacer.is_due(last=False)
    pacer.copied(0.1)
    clock.now += 1000
    assert not pacer.is_due(last=False)
    pacer.written(0.1)
    clock.now += 0.5
    assert pacer.is_due(last=False)


def test_the_first_one_is_early(clock: Clock) -> None:
    pacer = TimeBudget(4 * 1000)
    clock.now += 0.35
    assert pacer.is_due(last=False)


def test_the_first_one_is_later_where_many_chunks_are_flushed_with_it(clock: Clock) -> None:
    pacer = TimeBudget(4 * 1000, num_chunks=160)
    clock.now += 0.09 / 0.03
    assert not pacer.is_due(last=False)
    clock.now += 0.01
    assert pacer.is_due(last=False)


def test_only_when_asked(clock: Clock) -> None:
    stop = threading.Event()
    pacer = TimeBudget(0, share=0.0, stop=stop)
    clock.now += 1e9
    assert not pacer.is_due(last=False)
    stop.set()
    assert pacer.is_due(last=False)


def test_the_end(clock: Clock) -> None:
    clock.now += 1e9
    assert not TimeBudget(0).is_due(last=True)
    assert TimeBudget(0, keep_last=True).is_due(last=True)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(InvalidInputError, match="`checkpoint_share`"):
        TimeBudget(0, share=share)
