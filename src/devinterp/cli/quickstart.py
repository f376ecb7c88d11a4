"""``devinterp quickstart``: the function of that name as a command."""

from __future__ import annotations

from devinterp.cli.options import as_command, options_of
from devinterp.quickstart import quickstart as run

quickstart = as_command(run, options_of(run, skip=0), name="quickstart", documented=run)
