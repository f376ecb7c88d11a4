"""Where and how a run is carried out: as one object, or as arguments of their own."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from devinterp import RunOptions, sample
from devinterp.errors import InvalidInputError
from support.small_models import SHORT, ids, make, same_numbers


def run(**arguments):
    settings = {name: value for name, value in SHORT.items() if name != "chains"}
    return sample(make(), ids(), **settings, **arguments)


def test_one_object_does_what_the_arguments_do(tmp_path):
    options = RunOptions(output_path=tmp_path / "a.zarr", chains="vectorized", keep_state=True, progress=False)
    tree = run(options=options)
    same_numbers(tree, run(output_path=tmp_path / "b.zarr", chains="vectorized", keep_state=True, progress=False))
    assert (tmp_path / "a.zarr" / "resume").exists()


def test_every_field_is_an_argument_with_the_same_default():
    parameters = inspect.signature(sample).parameters
    for each in fields(RunOptions):
        default = getattr(RunOptions(), each.name)
        assert (parameters[each.name].default or None) == (default or None), each.name


@pytest.mark.parametrize(
    "argument", [{"chains": "vectorized"}, {"workers": 2}, {"repair": True}, {"checkpoint_share": 0.5}]
)
def test_not_both(argument):
    (name,) = argument
    with pytest.raises(InvalidInputError, match=f"`options` and `{name}` both say"):
        run(options=RunOptions(), **argument)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"chains": "sideways"}, "`chains` \\(='sideways'\\) must be one of 'auto'"),
        ({"workers": -1}, "`workers` \\(=-1\\)"),
        ({"checkpoint_share": 2.0}, "`checkpoint_share` \\(=2.0\\)"),
        ({"workers": 1, "client": object()}, "pass only one"),
    ],
)
def test_values_out_of_range(argument, message):
    with pytest.raises(InvalidInputError, match=message):
        RunOptions(**argument)
