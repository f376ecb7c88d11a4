"""Pictures of devinterp's trees, offered as ``tree.slt.plot.<name>()``.

A module for each picture, named as the analysis that it draws. `series` and `heatmap` are what several share, `read` what they
read beside analyses, `text` where tokens stand on a page; `themes` has the colours and the option ``dark``, `style` all that
touches matplotlib, which is imported when the first picture is drawn, not when plugins are listed.
"""

from __future__ import annotations

from devinterp.hookspecs import hookimpl
from devinterp.types import Plot
from devinterp_plots import autocorrelation as _autocorrelation
from devinterp_plots import bif as _bif
from devinterp_plots import calibration as _calibration
from devinterp_plots import diagnose as _diagnose
from devinterp_plots import llc as _llc
from devinterp_plots import rank as _rank
from devinterp_plots import susceptibilities as _susceptibilities
from devinterp_plots import tokens as _tokens
from devinterp_plots import trace as _trace
from devinterp_plots.themes import themed

__all__ = ["autocorrelation", "bif", "calibration", "diagnose", "llc", "rank", "susceptibilities", "tokens", "trace"]

#: Functions of a tree, under the names of the modules that draw them.
autocorrelation = themed(_autocorrelation.autocorrelation)
bif = themed(_bif.bif)
calibration = themed(_calibration.calibration)
diagnose = themed(_diagnose.diagnose)
llc = themed(_llc.llc)
rank = themed(_rank.rank)
susceptibilities = themed(_susceptibilities.susceptibilities)
tokens = themed(_tokens.tokens)
trace = themed(_trace.trace)

_STATUS = ("status/state",)
_TRACE = ("trace/loss|trace/mean_loss", "trace/init_loss")
_LOSSES = ("observables/*/loss", *_STATUS)


@hookimpl
def devinterp_plots() -> list[Plot]:
    """Return the pictures of this distribution."""
    return [
        Plot(name="trace", draw=trace, requires=_TRACE),
        Plot(name="llc", draw=llc, requires=_TRACE, of_study=True),
        Plot(name="rank", draw=rank, requires=_TRACE),
        Plot(name="autocorrelation", draw=autocorrelation, requires=_TRACE),
        Plot(name="diagnose", draw=diagnose, requires=(*_TRACE, *_STATUS)),
        Plot(name="bif", draw=bif, requires=_LOSSES),
        Plot(name="calibration", draw=calibration, of_study=True),
        Plot(name="susceptibilities", draw=susceptibilities, requires=(*_LOSSES, "trace/init_loss")),
        Plot(name="tokens", draw=tokens, requires=("observables/*/loss", "observables/*/init_loss")),
    ]
