"""Draw the pictures of symptoms.md: run its blocks in order and save the trace of each run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl

PAGE = Path(__file__).with_name("symptoms.md")
BLOCK = re.compile(r'^```python(?: title="(?P<name>\w+)\.py")?\n(?P<source>.*?)^```$', re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write one picture for each named block."""
    mpl.use("agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.finditer(PAGE.read_text()):
        exec(block["source"], namespace)
        if block["name"]:
            figure = namespace["tree"].slt.plot.trace()
            figure.savefig(PAGE.parent / "images" / "symptoms" / f"{block['name']}.png", dpi=70)


if __name__ == "__main__":
    main()
