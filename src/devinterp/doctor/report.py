"""All that was looked at, and what is wrong with it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version

from devinterp import optional, plugins
from devinterp.doctor.packages import Package, Part, bundled_model, core, extras, repository_plugins
from devinterp.doctor.self_test import SelfTest, run_self_test


@dataclass(frozen=True)
class Report:
    """What was found of an installation.

    Parameters
    ----------
    system : tuple of (str, str)
        Version of this package and of Python, machine, devices: names and values.
    packages : tuple of Package
        What this package requires.
    parts : tuple of Part
        Extras, the bundled model, and the plugins of the repository.
    broken : tuple of str
        Plugins that are installed and cannot be used, each with the reason.
    self_test : SelfTest or None
        The comparison with a known coefficient; None where it was left out or could not be run.
    failure : str
        Why the self test could not be run.
    """

    system: tuple[tuple[str, str], ...]
    packages: tuple[Package, ...]
    parts: tuple[Part, ...]
    broken: tuple[str, ...]
    self_test: SelfTest | None = None
    failure: str = ""

    @property
    def problems(self) -> list[str]:
        """What keeps the installation from working as it should; parts that are not installed are none."""
        wrong = [_wrong(each) for each in self.packages if not each.fits]
        wrong += [f"a plugin is broken: {each}" for each in self.broken]
        if self.failure:
            wrong.append(f"the self test failed: {self.failure}")
        elif self.self_test is not None and not self.self_test.passed:
            wrong.append(f"the self test gives a wrong number: {self.self_test}")
        return wrong


def examine(*, self_test: bool = True) -> Report:
    """Look at an installation: versions, devices, optional parts, plugins, and a sampling run whose result is known.

    Parameters
    ----------
    self_test : bool, default: True
        Whether to sample; it takes some seconds.
    """
    packages = tuple(core())
    parts = (*extras(), bundled_model(), *repository_plugins())
    broken = tuple(f"{row.provider} ({row.module}): {row.error}" for row in plugins.listing() if row.error)
    tested, failure = None, ""
    if self_test:
        try:
            tested = run_self_test()
        except Exception as error:  # whatever is wrong is what this command is asked for
            failure = f"{type(error).__name__}: {error}"
    return Report(_system(), packages, parts, broken, tested, failure)


def _system() -> tuple[tuple[str, str], ...]:
    return (
        (optional.PACKAGE, version(optional.PACKAGE)),
        ("Python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}"),
        ("devices", _devices()),
    )


def _devices() -> str:
    """Return where torch can compute, and with how many threads."""
    try:
        import torch
    except ImportError as error:
        return f"unknown: torch cannot be imported ({error})"
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return ", ".join(devices)


def _wrong(package: Package) -> str:
    command = optional.install_command([package.requirement])
    if package.installed is None:
        return f"{package.requirement} is not installed: {command}"
    return f"{package.requirement} is required, and {package.installed} is installed: {command}"
