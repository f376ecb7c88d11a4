"""How much a chain's slow cosines miss of its long-run variance, from the correlation of its successive draws."""

from __future__ import annotations

import numpy as np


def draw_correlation(centred: np.ndarray) -> np.ndarray:
    """Return the correlation of successive draws of series, corrected for its bias in short chains [1]_.

    Parameters
    ----------
    centred : numpy.ndarray
        ``(..., chain, draw)``, less the mean of each chain; all chains together give one number.

    Returns
    -------
    numpy.ndarray
        ``(...)``, from 0 (also where it is negative) to just below 1.

    References
    ----------
    .. [1] F. Marriott, J. Pope. Bias in the estimation of autocorrelations. Biometrika 41 (1954).
       doi:10.1093/biomet/41.3-4.390.
    """
    num_draws = centred.shape[-1]
    products = np.einsum("...ct,...ct->...", centred[..., 1:], centred[..., :-1])
    squares = np.einsum("...ct,...ct->...", centred, centred)
    estimate = products / np.where(squares > 0, squares, 1)
    # The mean of the estimate is about r - (1 + 3 r) / T.
    return np.asarray(np.clip((estimate + 1 / num_draws) / (1 - 3 / num_draws), 0, 1 - 1 / num_draws))


def kept_power(correlation: np.ndarray | float, num_draws: int, num: int) -> np.ndarray:
    r"""Return what share of its long-run variance an autoregressive process of first order keeps in each of its slow cosines.

    That of its spectrum at frequency :math:`\omega_j = \pi j / T` over that at zero,
    :math:`(1 - r)^2 / (1 - 2 r \cos\omega_j + r^2)`.

    Parameters
    ----------
    correlation : numpy.ndarray or float
        Of successive draws, from 0 to less than 1.
    num_draws : int
        Draws of a chain, T.
    num : int
        How many cosines, j = 1, 2, ...

    Returns
    -------
    numpy.ndarray
        With the cosines along a further, last axis.
    """
    r = np.asarray(correlation)[..., None]
    frequencies = np.pi * np.arange(1, num + 1) / num_draws
    return np.asarray((1 - r) ** 2 / (1 - 2 * r * np.cos(frequencies) + r**2))
