"""Whether an installation works: `devinterp doctor`.

`packages` reads what is installed, what is missing and what would install it; `self_test` samples a problem whose coefficient
is known, through a store on disk; `report` puts both into one `Report`.
"""

from __future__ import annotations

from devinterp.doctor.report import Report, examine

__all__ = ["Report", "examine"]
