"""The command line: ``devinterp sample | info | plugins | ...``, every installed analysis, and what plugins add.

`program` runs one command and turns what goes wrong into a sentence and an exit code; `app` gathers the commands, from
`devinterp.plugins`. Each command is a module of its own (`sampling`, `resume`, `info`, `check`, `masks`, `quickstart`),
imported when it is used; `analysis` makes a command of any analysis, with `options` for its parameters and `render` for
its result (`llc_summary` for learning coefficients, `strongest` for influences and susceptibilities, `export` for programs);
`plot` makes one of any plot.
"""

from __future__ import annotations

from devinterp.cli.program import main, run

__all__ = ["main", "run"]
