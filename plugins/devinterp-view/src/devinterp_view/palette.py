"""Colours of tokens: from blue over the colour of the page to red, with the text on them always readable."""

from __future__ import annotations

import math

import numpy as np

#: Number of colours; the middle one is of numbers near zero.
NUM_COLOURS = 21
#: The ends and the middle, and the text on them. Blue and red-orange are told apart with any form of colour blindness.
LIGHT = ("#6f9ff0", "#ffffff", "#f08a62")
DARK = ("#2a5bb0", "#1b1d21", "#a84320")
LIGHT_TEXT, DARK_TEXT = "#16181d", "#f4f5f7"


def colours(ends: tuple[str, str, str]) -> list[str]:
    """Return the colours from the lowest numbers to the highest, evenly spaced to the eye."""
    low, middle, high = (_to_oklab(each) for each in ends)
    half = NUM_COLOURS // 2
    places = np.linspace(0, 1, half + 1)[:, None]
    below, above = middle + places[::-1] * (low - middle), middle + places[1:] * (high - middle)
    return [_from_oklab(each) for each in np.concatenate([below, above])]


def style() -> str:
    """Return the rules of the classes ``c0`` to ``c20``, in light and in dark."""
    light = [f".c{n}{{background:{colour}}}" for n, colour in enumerate(colours(LIGHT))]
    dark = [f".c{n}{{background:{colour}}}" for n, colour in enumerate(colours(DARK))]
    by_choice = "".join(f':root[data-theme="dark"] {rule}' for rule in dark)
    by_system = "".join(f":root:not([data-theme=light]) {rule}" for rule in dark)
    return f"{''.join(light)}{by_choice}@media screen and (prefers-color-scheme: dark){{{by_system}}}"


def bins(values: np.ndarray, limit: float) -> np.ndarray:
    """Return the colour of each number, from 0 to 20; -1 of what is none.

    Parameters
    ----------
    values : numpy.ndarray
        Numbers; NaN where there is none.
    limit : float
        Number of the last colour, and minus that of the first; above 0.
    """
    half = NUM_COLOURS // 2
    scaled = np.clip(np.nan_to_num(values) / limit, -1, 1) * half
    return np.where(np.isfinite(values), half + np.floor(scaled + 0.5).astype(int), -1)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours by the formula of the Web Content Accessibility Guidelines, from 1 to 21."""
    first, second = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


def _linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _luminance(colour: str) -> float:
    return float(_linear(colour) @ [0.2126, 0.7152, 0.0722])


_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _to_oklab(colour: str) -> np.ndarray:
    return np.asarray(_TO_LAB @ np.cbrt(_TO_LMS @ _linear(colour)))


def _from_oklab(lab: np.ndarray) -> str:
    linear = np.clip(np.linalg.solve(_TO_LMS, np.linalg.solve(_TO_LAB, lab) ** 3), 0, 1)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{math.floor(255 * each + 0.5):02x}" for each in values)
