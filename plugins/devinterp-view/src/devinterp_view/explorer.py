"""``tree.slt.view()``: a run in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer


def view(
    tree: xr.DataTree,
    *,
    tokenizer: Tokenizer | None = None,
    passages: Mapping[str, Sequence[int] | None] | None = None,
    restriction: str | None = None,
    sampling_task: str | None = None,
    height: int = 720,
) -> Any:
    """Show a run in a notebook, as ``devinterp report`` does: verdict, traces, coefficients, coloured tokens, influences.

    What is shown is in the notebook, and in HTML that is exported from it. While the kernel is alive, the strongest candidates
    of a clicked token can be looked for in all data, too.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    tokenizer : Tokenizer, optional
        Anything with a ``decode``; without one, token ids are shown.
    passages : mapping of str to sequence of int, optional
        Which sequences of which observables to show; None for the first ones. Default: the first ones of every observable.
    restriction : str, optional
        Weight restriction of influences; default: ``"full"`` if there is one, else the first.
    sampling_task : str, optional
        The observable made of the data that the run was sampled on, for susceptibilities; needed where there are several.
    height : int, default: 720
        In pixels of the screen, from 100 to 10,000.

    Returns
    -------
    anywidget.AnyWidget
        The widget; its trait ``html`` is the page.

    Raises
    ------
    InvalidInputError
        If anywidget is not installed, the tree holds several runs, or a name is not there.
    MissingDataError
        If it holds none.
    """
    try:
        import anywidget  # noqa: F401  # notebooks have it, machines that only analyse may not
    except ImportError as error:
        raise InvalidInputError(
            "`tree.slt.view()` needs the package anywidget: `pip install anywidget`. Without it, `devinterp report` writes the "
            "same page into a file, and `devinterp view` shows it in the browser."
        ) from error
    from devinterp_view.notebook import Explorer

    return Explorer(
        tree,
        tokenizer=tokenizer,
        passages=passages,
        restriction=restriction,
        sampling_task=sampling_task,
        height=height,
    )
