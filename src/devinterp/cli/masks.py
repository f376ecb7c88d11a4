"""``devinterp masks``: which weights a restriction selects."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape

from devinterp import sources
from devinterp.cli.options import MODEL
from devinterp.models.restrictions import Kind
from devinterp.slt.weight_restrictions import create_param_masks, preview_weight_restriction, restrictions


def masks(
    model: MODEL,
    /,
    *restriction: Annotated[
        str, Parameter(help="For example `l0h1` or `l0 mlp`; several make a union. None: list what there is.")
    ],
    kind: Annotated[
        tuple[Kind, ...], Parameter(help="Kinds of components to list; may be repeated. None: all.", show_default=False)
    ] = (),
) -> None:
    """Show which weights of a model a restriction selects, or list the components that can be named."""
    console = Console()
    with console.status("loading the model"):
        network, _ = sources.load_model(model)
    if not restriction:
        console.print(Columns([escape(name) for name in restrictions(network, kind or None)], padding=(0, 2)))
        return
    selected = restriction[0] if len(restriction) == 1 else list(restriction)
    preview_weight_restriction(network, create_param_masks(network, selected), console=console)
