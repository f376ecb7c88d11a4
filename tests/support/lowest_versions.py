"""Print constraints: the lowest version that the package declares of each of its requirements (`make test-lowest`)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version


def lowest(project: Path) -> list[str]:
    """Return ``name==version`` for each requirement of a project, without its extras.

    Parameters
    ----------
    project : pathlib.Path
        Folder of its ``pyproject.toml``.
    """
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    return [f"{each.name}=={_lower_bound(each)}" for each in map(Requirement, declared) if each.name != "devinterp"]


def _lower_bound(requirement: Requirement) -> Version:
    bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} must declare one lower bound with >=")
    return bounds[0]


if __name__ == "__main__":
    print("\n".join(lowest(Path(sys.argv[1]))))
