"""Standard errors by the jackknife over chains, and the intervals they give."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError


def jackknife_error(left_out: list[Any]) -> Any:
    r"""Return the jackknife standard error from the estimates that each leave one chain out.

    .. math:: \sqrt{\frac{C-1}{C} \sum_c (\hat\theta_{-c} - \bar\theta)^2}

    Parameters
    ----------
    left_out : list of array
        One estimate for each of at least two chains; numpy, Dask or xarray.
    """
    count = len(left_out)
    mean = sum(left_out[1:], left_out[0]) / count
    squares = sum(((one - mean) ** 2 for one in left_out[1:]), (left_out[0] - mean) ** 2)
    return ((count - 1) / count * squares) ** 0.5


def confidence_interval(result: xr.Dataset, name: str, *, level: float = 0.95) -> xr.Dataset:
    r"""Return the interval :math:`\hat\theta \pm t \cdot \mathrm{se}` of a variable that has a standard error.

    With few chains their spread is itself uncertain, so the quantile is that of Student's distribution, with the degrees of
    freedom in the variable of the error with ``_dof`` in place of ``_se`` or, where there is none, in the error's attribute.

    Parameters
    ----------
    result : xarray.Dataset
        With the variables `name` and ``<name>_se``; the latter's attribute ``degrees_of_freedom`` (default: infinite).
    name : str
        The estimate, for example ``"influences"``; of a mean such as ``"paired_llc_mean"`` the error is ``paired_llc_se``.
    level : float, default: 0.95
        How often such an interval holds the true value; between 0 and 1.

    Returns
    -------
    xarray.Dataset
        ``lower`` and ``upper``, lazy if the result is lazy; NaN without a degree of freedom, as with one chain.

    Raises
    ------
    InvalidInputError
        If `level` is not between 0 and 1.
    MissingDataError
        If the result has no such error.
    """
    if not 0 < level < 1:
        raise InvalidInputError(f"`level` (={level}) must lie between 0 and 1, for example 0.95.")
    stem = name.removesuffix("_mean")
    error_name = f"{stem}_se" if f"{name}_se" not in result and f"{stem}_se" in result else f"{name}_se"
    missing = [wanted for wanted in (name, error_name) if wanted not in result]
    if missing:
        raise MissingDataError(
            f"the result has no {missing[0]!r}; it has {sorted(map(str, result.data_vars))}: ask for standard errors."
        )
    error = result[error_name]
    degrees_name = f"{error_name.removesuffix('_se')}_dof"
    if degrees_name in result:
        options: Any = {"dask": "parallelized", "output_dtypes": [np.float64]}
        half = xr.apply_ufunc(_student_quantiles, (1 + level) / 2, result[degrees_name], **options) * error
    else:
        half = student_quantile((1 + level) / 2, float(error.attrs.get("degrees_of_freedom", math.inf))) * error
    return xr.Dataset({"lower": result[name] - half, "upper": result[name] + half})


def _student_quantiles(probability: float, degrees_of_freedom: np.ndarray) -> np.ndarray:
    """Return the quantiles for many degrees of freedom of at least 1: their logarithm is smooth in one over these."""
    inverse = np.linspace(0, 1, 65)
    exact = [student_quantile(probability, 1 / each if each else math.inf) for each in inverse]
    with np.errstate(divide="ignore"):  # none: there is no error either
        return np.exp(np.interp(1 / degrees_of_freedom, inverse, np.log(exact)))


@lru_cache(maxsize=512)
def student_quantile(probability: float, degrees_of_freedom: float) -> float:
    """Return the quantile of Student's distribution for a probability of at least one half.

    By hand, because nothing else here needs scipy.

    Parameters
    ----------
    probability : float
        From 0.5 to less than 1.
    degrees_of_freedom : float
        Infinite for the normal distribution. Below 1 there is no quantile: NaN.
    """
    if degrees_of_freedom < 1:
        return math.nan
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees_of_freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees_of_freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_cdf(value: float, degrees_of_freedom: float) -> float:
    if math.isinf(degrees_of_freedom):
        return 0.5 * (1 + math.erf(value / math.sqrt(2)))
    # With t = sqrt(nu) tan(a) the density becomes cos(a)^(nu-1), which is smooth: Gauss-Legendre is exact to rounding.
    angle = math.atan(value / math.sqrt(degrees_of_freedom))
    nodes, weights = _quadrature()
    integral = float((weights * np.cos(angle * (nodes + 1) / 2) ** (degrees_of_freedom - 1)).sum()) * angle / 2
    norm = math.lgamma((degrees_of_freedom + 1) / 2) - math.lgamma(degrees_of_freedom / 2)
    return 0.5 + integral * math.exp(norm) / math.sqrt(math.pi)


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(96)
