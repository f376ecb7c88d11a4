"""The colours of pictures in light and in dark, and the option ``dark=`` that every picture has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a picture.

    Parameters
    ----------
    page, ink, muted, grid, shade, blank : str
        Of the background, text, axes, the grid, a shaded span, and a token without a number.
    palette : tuple of str
        Of curves.
    """

    page: str
    ink: str
    muted: str
    grid: str
    shade: str
    blank: str
    palette: tuple[str, ...]


#: Okabe and Ito's palette, told apart by readers with any form of colour blindness; yellow is left out (too pale for lines).
LIGHT = Theme(
    "white", "#222222", "#6b6b6b", "#e4e4e4", "#f1f1f1", "0.91",
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
)  # fmt: skip
#: The same hues, lighter.
DARK = Theme(
    "#1b1d21", "#f4f5f7", "#aeb4bf", "#3a3e46", "#272a30", "#33363d",
    ("#56B4E9", "#FF9A57", "#3FC9A0", "#E6A0CF", "#A6D8F5", "#F0C35C", "#F4F5F7"),
)  # fmt: skip

_current: ContextVar[Theme] = ContextVar("theme", default=LIGHT)


def current() -> Theme:
    """Return the theme in force."""
    return _current.get()


def themed(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return a plot with the option ``dark``, and with names drawn as they are.

    What a caller passed axes or a figure for keeps its own background.

    Parameters
    ----------
    draw : callable
        ``draw(tree, **options)``, returning its figure.
    """

    @functools.wraps(draw)
    def drawn(tree: Any, *args: Any, dark: bool = False, **options: Any) -> Any:
        token = _current.set(DARK if dark else LIGHT)
        try:
            figure = draw(tree, *args, **options)
            if all(options.get(name) is None for name in ("ax", "axes", "figure")):
                from devinterp_plots import style

                style.finish(figure)
            return figure
        finally:
            _current.reset(token)

    signature = inspect.signature(draw)
    option = inspect.Parameter("dark", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool")
    drawn.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    entry = "dark : bool, default: False\n    Light on dark.\n"
    # Cleaned first: from Python 3.13 on docstrings come without the indentation of the source.
    drawn.__doc__ = inspect.cleandoc(draw.__doc__ or "").replace("\nReturns\n", f"{entry}\nReturns\n", 1)
    return drawn
