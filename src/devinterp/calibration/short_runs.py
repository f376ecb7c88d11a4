"""Short runs of points: each is as long as its judgement needs, within a budget of gradients, and stored as it goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from devinterp.calibration.grid import Planned, Point
from devinterp.calibration.judged import PASSED, Judged, judge
from devinterp.calibration.measure import curvature_at
from devinterp.calibration.naming import dims_of, labels_of, run_name, seed_of
from devinterp.calibration.record import Record
from devinterp.calibration.request import Request, measuring_settings
from devinterp.calibration.subject import Subject
from devinterp.errors import DevinterpError

#: A point's first run takes at most one part in so many of the budget, under all restrictions and at all checkpoints.
SHARE = 8
#: Steps after burn-in of a short run, as far as the budget goes and at least, and the least burn-in.
FIRST_LENGTH, LEAST_LENGTH, LEAST_BURNIN = 100, 40, 20
#: The losses of all rows at w0 are stored; few minibatches have to measure L(w0) beside them.
NUM_INIT_LOSS_BATCHES = 4
#: How often a run is made twice as long where more draws may mend what is said against it.
NUM_EXTENSIONS = 2
#: Spacing of draws where observables are evaluated at them.
SPACING = 4


class BudgetSpentError(DevinterpError):
    """The budget does not hold the next run."""

    def __init__(self, planned: Planned, needed: int, left: int) -> None:
        super().__init__(f"the next run takes {needed:,} gradients, and of the budget {left:,} are left")
        self.planned = planned


class ShortRuns:
    """Runs and judges points.

    Parameters
    ----------
    request : Request
        What is asked for.
    subject : Subject
        What is sampled.
    record : Record or None
        Where runs and judgements are kept; what it holds is not sampled again. None where nothing is to be run.
    num_restrictions : int
        Restrictions of a run.
    num_gradients : int
        Gradients of the budget that were spent before.
    """

    def __init__(
        self, request: Request, subject: Subject, record: Record | None, *, num_restrictions: int, num_gradients: int
    ) -> None:
        self._request, self._subject, self._record = request, subject, record
        self._chains = request.num_chains * num_restrictions
        self._spent: dict[tuple[str, str], int] = {}  # by point and run
        self._before = num_gradients
        num = self._chains * len(subject.models)
        self._least_parts = SHARE * num
        self._most_steps = request.max_gradients // self._least_parts

    @property
    def most_burnin_steps(self) -> int:
        """Return the longest burn-in that the first run of a point can have."""
        return max(0, self._most_steps - LEAST_LENGTH)

    def least_budget(self, num_burnin_steps: int) -> int:
        """Return the least ``max_gradients`` with which the first run of a point can have such a burn-in."""
        return (num_burnin_steps + LEAST_LENGTH) * self._least_parts

    @property
    def num_gradients(self) -> int:
        """Return the gradients spent so far, those that were found in the store among them."""
        return self._before + sum(self._spent.values())

    def gradients_of(self, point: Point) -> int:
        """Return the gradients spent on a point."""
        return sum(number for (name, _), number in self._spent.items() if name == point.name)

    def first_gradients(self, planned: Planned) -> int:
        """Return the gradients that the first runs of a point take, at all checkpoints."""
        return self._chains * len(self._subject.models) * (_burnin(planned) + self._first_length(planned))

    def judge(self, planned: Planned, *, to_compare: bool = False) -> tuple[Judged, ...]:
        """Run a point at one checkpoint after the other, until one fails.

        Parameters
        ----------
        planned : Planned
            The point.
        to_compare : bool, default: False
            Whether it only is what another point is compared with: then it is made longer until its coefficient is usable.
        """
        done: list[Judged] = []
        for checkpoint in self._subject.models:
            length = self._first_length(planned)
            judged = self._judged(planned, checkpoint, _burnin(planned), length)
            while not _is_enough(judged, to_compare) and judged.may_pass_when_longer:
                longer = self._longer(planned, judged)
                if longer is None:
                    break
                judged = longer
            done.append(judged)
            if not _is_enough(judged, to_compare):
                break
        return tuple(done)

    def judge_longer(self, planned: Planned, judged: Sequence[Judged]) -> tuple[Judged, ...] | None:
        """Make the runs of a point twice as long and judge them anew; None where that is not allowed any more."""
        done = [self._longer(planned, each) for each in judged]
        return tuple(each for each in done if each is not None) if all(done) else None

    def judge_with_null(self, planned: Planned, judged: Sequence[Judged]) -> tuple[Judged, ...]:
        """Run the same chains at ``n_beta`` zero beside a point's runs, and judge these anew."""
        done: list[Judged] = []
        for each in judged:
            length = each.num_draws * self._spacing
            done.append(self._judged(planned, each.checkpoint, each.num_burnin_steps, length, null=True))
            if done[-1].outcome != PASSED:
                break
        return tuple(done)

    def curvatures(self, planned: Planned, checkpoint: str) -> dict[str, float]:
        """Return the largest second derivative of the loss where the chains of a point's run ended, by restriction."""
        assert self._record is not None
        name = run_name(planned.point, checkpoint)
        measured = self._record.curvatures(name)
        if measured is None:
            ends = self._record.store.last_weights(name)
            by_restriction: dict[int, list[list[np.ndarray]]] = {}
            for (restriction, _), values in sorted(ends.items(), key=lambda each: each[0]):
                by_restriction.setdefault(restriction, []).append(values)
            with self._subject.spec(checkpoint, measuring_settings(self._request)) as spec:
                measured = curvature_at(spec, by_restriction)
            self._record.keep_curvatures(name, *measured)
        self._spent[planned.point.name, f"{name}/curvature"] = measured[1]
        return measured[0]

    @property
    def _spacing(self) -> int:
        return SPACING if self._subject.observables else 1

    def _first_length(self, planned: Planned) -> int:
        """Return the steps after burn-in of a point's first run: as many as the burn-in, at least a hundred."""
        burnin = _burnin(planned)
        length = max(LEAST_LENGTH, min(max(FIRST_LENGTH, burnin), self._most_steps - burnin))
        return -(-length // self._spacing) * self._spacing

    def _longer(self, planned: Planned, judged: Judged) -> Judged | None:
        """Make a run twice as long; None where it has been made so often enough, or the budget does not hold it."""
        before = judged.num_draws * self._spacing
        length = 2 * before
        is_long = length > self._first_length(planned) * 2**NUM_EXTENSIONS
        if is_long or self._chains * before > self._request.max_gradients - self.num_gradients:
            return None
        burnin = judged.num_burnin_steps
        if judged.needs_burnin:
            burnin = max(burnin, (_burnin(planned) + length) // 2)
        return self._judged(planned, judged.checkpoint, burnin, length)

    def _judged(self, planned: Planned, checkpoint: str, burnin: int, length: int, *, null: bool = False) -> Judged:
        """Return the judgement of a run of some length, sampling what of it is not stored."""
        assert self._record is not None
        point = planned.point
        name = run_name(point, checkpoint)
        store, suffix = self._record.store, "/null" if null else ""
        self._check_budget(planned, name + suffix, _burnin(planned) + length)
        key = f"{name}/{burnin}/{length}{suffix}"
        judged = self._record.judged(key)
        if judged is None:
            labels = labels_of(point, checkpoint)
            store.add(name, labels)
            tree = self._subject.run(
                checkpoint,
                {
                    **point.settings,
                    "num_chains": self._request.num_chains,
                    "num_burnin_steps": _burnin(planned),
                    "num_draws": length // self._spacing,
                    "num_steps_bw_draws": self._spacing,
                    "num_init_loss_batches": NUM_INIT_LOSS_BATCHES,
                    "init_seed": seed_of(self._request, name),
                    "record": "sequence",
                    "paired": True,
                },
                store.place(name),
                labels,
                dims_of(self._subject.models),
                null=null,
            )
            judged = judge(tree, checkpoint=checkpoint, burnin=burnin)
            self._record.keep_judged(key, judged)
        # The null run has as many steps, and its chains are not looked at one by one.
        self._spent[point.name, name + suffix] = judged.num_gradients
        return judged

    def _check_budget(self, planned: Planned, run: str, steps: int) -> None:
        """Raise unless the budget holds what a run of so many steps takes beyond what it has."""
        needed = max(0, self._chains * steps - self._spent.get((planned.point.name, run), 0))
        left = self._request.max_gradients - self.num_gradients
        if needed > left:
            raise BudgetSpentError(planned, needed, left)


def _burnin(planned: Planned) -> int:
    """Return the burn-in that a point's runs are sampled with."""
    return max(LEAST_BURNIN, planned.num_burnin_steps)


def _is_enough(judged: Judged, to_compare: bool) -> bool:
    return judged.is_usable if to_compare else judged.outcome == PASSED
