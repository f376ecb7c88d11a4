"""What the quickstart samples, and on which part of its texts it takes losses."""

from __future__ import annotations

import pytest
from datasets import Dataset

from devinterp.quickstart.recipes import COMPONENTS, WHOLE


def text(num_sequences: int) -> Dataset:
    return Dataset.from_dict({"input_ids": [[number] * 4 for number in range(num_sequences)]})


@pytest.mark.parametrize(("number", "rows"), [(64, [0, 16, 32, 48]), (5, [0, 1, 2, 3]), (3, [0, 1]), (1, [0])])
def test_a_fixed_part_of_a_text_is_observed_at_every_draw(number: int, rows: list[int]) -> None:
    part, num_batches = COMPONENTS.observed(text(number))
    assert [ids[0] for ids in part["input_ids"]] == rows
    assert num_batches == max(1, len(rows) // COMPONENTS.sampling["batch_size"])


def test_or_all_of_it_in_turn() -> None:
    given = text(7)
    assert WHOLE.observed(given) is given


def test_every_sequence_is_taken_equally_often() -> None:
    sampling = COMPONENTS.sampling
    steps = sampling["num_draws"] * sampling["num_steps_bw_draws"]
    assert steps * sampling["batch_size"] % COMPONENTS.num_sequences == 0
    # Otherwise the choice of the others would make `llc_mean` much less certain than the paired one.
    assert sampling["num_init_loss_batches"] * sampling["batch_size"] == COMPONENTS.num_sequences
