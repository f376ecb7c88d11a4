"""Pictures of devinterp's trees, offered as ``tree.slt.plot.<name>()``.

matplotlib is imported when the first picture is drawn, not when plugins are listed.
"""

from __future__ import annotations

from devinterp.hookspecs import hookimpl
from devinterp.types import Plot
from devinterp_plots.llc import llc
from devinterp_plots.tokens import tokens
from devinterp_plots.trace import trace

__all__ = ["llc", "tokens", "trace"]

_TRACE = ("trace/loss|trace/mean_loss", "trace/init_loss")


@hookimpl
def devinterp_plots() -> list[Plot]:
    """Return the pictures of this distribution."""
    return [
        Plot(name="trace", draw=trace, requires=_TRACE),
        Plot(name="llc", draw=llc, requires=_TRACE, of_study=True),
        Plot(name="tokens", draw=tokens, requires=("observables/*/loss", "observables/*/init_loss")),
    ]
