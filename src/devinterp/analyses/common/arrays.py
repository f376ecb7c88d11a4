"""Functions of numpy arrays applied to variables without coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr


def apply(
    function: Callable[..., Any],
    *variables: xr.DataArray | xr.Variable,
    core: Sequence[Sequence[str]],
    out: Sequence[Sequence[str]] = ((),),
    sizes: Mapping[str, int] | None = None,
    **options: Any,
) -> Any:
    """Apply a function of numpy arrays along some dims of each variable, lazily where one is lazy.

    As `xarray.apply_ufunc` does, whose own work takes longer than the arithmetic on a small run: it is called only where it is
    needed.

    Parameters
    ----------
    function : callable
        Takes an array of each variable, with the dims of `core` last, and returns float64 arrays with the dims of `out` last.
    *variables : xarray.DataArray or xarray.Variable
        What it is applied to; lazy ones in one block along `core`.
    core : sequence of sequences of str
        The dims of each variable along which `function` works.
    out : sequence of sequences of str, optional
        The dims that each of its results has in their place; default: one result without them.
    sizes : mapping of str to int, optional
        The sizes of those of `out` that are new.
    **options : object
        Further arguments of `function`.

    Returns
    -------
    xarray.DataArray or xarray.Variable, or tuple of them
        The results.
    """
    first, *others = variables
    if all(isinstance(each, xr.Variable) and not is_lazy(each) for each in variables) and all(
        set(other.dims) == set(dims) for other, dims in zip(others, core[1:], strict=True)
    ):
        lead = [dim for dim in first.dims if dim not in core[0]]
        wanted = [(*lead, *core[0]), *map(tuple, core[1:])]
        arrays = [_in_order(each, dims) for each, dims in zip(variables, wanted, strict=True)]
        results = function(*arrays, **options)
        if len(out) == 1:
            return xr.Variable((*lead, *out[0]), results)
        return tuple(xr.Variable((*lead, *dims), each) for dims, each in zip(out, results, strict=True))
    return xr.apply_ufunc(
        function,
        *variables,
        input_core_dims=core,
        output_core_dims=out,
        kwargs=options,
        dask="parallelized",
        output_dtypes=[np.float64] * len(out),
        dask_gufunc_kwargs={"output_sizes": dict(sizes or {})},
    )


def is_lazy(variable: xr.DataArray | xr.Variable) -> bool:
    """Say whether an array is computed only later; what is stored, and not in Dask arrays, is read when it is used."""
    # `chunks` asks a protocol, which takes longer than the arithmetic of a small array; `data` would read what is stored.
    held = getattr(variable, "variable", variable)._data
    return not isinstance(held, np.ndarray) and variable.chunks is not None


def _in_order(variable: Any, dims: tuple[Any, ...]) -> np.ndarray:
    return np.asarray((variable if variable.dims == dims else variable.transpose(*dims)).data)
