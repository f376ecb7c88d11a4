"""The checks that tests/conftest.py puts around the package refuse what annotations do not allow."""

from __future__ import annotations

import inspect
import os

import pytest
import torch
from jaxtyping import TypeCheckError

from devinterp import arguments
from devinterp.sampling.losses.loss import text_positions, token_losses
from devinterp.types import Plot

pytestmark = pytest.mark.skipif(os.environ.get("DEVINTERP_TYPECHECK") == "0", reason="types are not checked")


def test_an_argument_of_another_type_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        arguments.count(3, 4, least=1)


def test_an_argument_of_another_shape_is_refused() -> None:
    assert token_losses(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)).shape == (2, 2)
    with pytest.raises(TypeCheckError):
        token_losses(torch.zeros(3, 5), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(TypeCheckError):
        text_positions(torch.ones(2, 3))


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Plot(name=3, draw=lambda tree: None)


def test_signatures_are_those_of_the_source() -> None:
    assert inspect.signature(arguments.count).parameters["least"].annotation == "int"
    assert arguments.count.__doc__
