"""Every argument of every public function, given wrong: the message names the argument."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from devinterp import arguments
from devinterp.errors import InvalidInputError

SCRIPT = Path(__file__).parent / "support" / "wrong_arguments.py"
#: What is not looked at in these calls: any object that maps can be a `client`; the others belong to restrictions of layers.
UNSEEN = {"sample.client", "create_param_masks.adapter", "create_param_masks.example_inputs"}


@pytest.fixture(scope="module")
def errors() -> dict[str, list[str] | None]:
    """What each call raised: type and text."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    raised: dict[str, list[str] | None] = json.loads(result.stdout)
    return raised


def test_a_wrong_argument_is_named(errors: dict[str, list[str] | None]) -> None:
    silent = [case for case, error in errors.items() if error is None and case.split("=")[0] not in UNSEEN]
    assert not silent
    unnamed = {
        case: error
        for case, error in errors.items()
        if error is not None and case.split("=")[0].split(" ")[0].partition(".")[2] not in error[1]
    }
    assert not unnamed
    assert len(errors) > 100


def test_a_wrong_argument_is_an_error_of_ours(errors: dict[str, list[str] | None]) -> None:
    others = {case: error for case, error in errors.items() if error is not None and error[0] != "InvalidInputError"}
    assert not others


def test_a_missing_argument_is_named(errors: dict[str, list[str] | None]) -> None:
    for name, argument in (("susceptibilities", "sampling_task"), ("token_llc", "observable")):
        error = errors[f"{name}.{argument} missing"]
        assert error is not None
        assert error[1] == f"`{name}`: `{argument}` is needed: pass one of the observables, ['other', 'train']."


@pytest.mark.parametrize("value", [True, 1, 1.0, np.True_, np.int64(1), np.array(1)], ids=repr)
def test_what_counts_as_true(value: object) -> None:
    assert arguments.flag("on", value) is True
    assert arguments.flag("on", np.logical_not(value)) is False


@pytest.mark.parametrize("value", ["True", "no", 2, -1, 0.5, float("nan"), None, [True], np.ones(2), {}], ids=repr)
def test_what_is_neither_true_nor_false(value: object) -> None:
    with pytest.raises(InvalidInputError, match=r"`on` \(=.*\) must be True or False"):
        arguments.flag("on", value)
