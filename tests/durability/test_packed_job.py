"""Jobs for other processes: what a script or a plan defines goes with them, whatever it is decorated with."""

from __future__ import annotations

import fnmatch
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from devinterp.sampling.execution.packed_job import pickled

SCRIPT = """
import sys
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
from devinterp.sampling.execution.packed_job import pickled

@cache
def powers(base):
    print("computed", base, file=sys.stderr)
    return base ** np.arange(4)

@lru_cache(maxsize=2, typed=True)
def recursive(number):
    return 1 if number == 0 else number * recursive(number - 1)

def total(base):
    return int(powers(base).sum() + powers(base).sum())

def made(offset):
    @cache
    def inner(x):
        return x + offset
    return inner

@dataclass
class Job:
    parts: Any
    def start(self):
        return self.parts

powers(2)
sys.stdout.buffer.write(pickled(Job((total, recursive, made(3), partial(total, 3)))))
"""
READER = """
import sys
from devinterp.sampling.execution.packed_job import started
total, recursive, inner, three = started(sys.stdin.buffer.read())
print(total(2), recursive(5), recursive.cache_parameters(), inner(4), three())
"""


def run(*command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *command], input=given, capture_output=True, check=False)


def as_script(folder: Path) -> bytes:
    (folder / "script.py").write_text(SCRIPT)
    return run(str(folder / "script.py")).stdout


def as_plan(folder: Path) -> bytes:
    """As in a file that a plan names: its module is registered to be sent whole, because nobody else can import it."""
    (folder / "hidden_module.py").write_text(SCRIPT)
    code = "import sys, types, cloudpickle; m = types.ModuleType('nowhere'); sys.modules['nowhere'] = m;"
    code += (
        f"cloudpickle.register_pickle_by_value(m); exec(open({str(folder / 'hidden_module.py')!r}).read(), m.__dict__)"
    )
    return run("-c", code).stdout


@pytest.mark.heavy
@pytest.mark.parametrize("written", [as_script, pytest.param(as_plan, marks=pytest.mark.slow)])
def test_cached_functions_of_scripts_and_plans_run_in_another_process(written, tmp_path: Path):
    packed = written(tmp_path)
    read = run("-c", READER, given=packed)
    assert read.stdout.decode().split("\n")[0] == "30 120 {'maxsize': 2, 'typed': True} 7 80", read.stderr.decode()
    # The cache itself stays behind: it is filled again where it is needed, and once.
    assert read.stderr.decode().count("computed 2") == 1


def test_a_cached_function_that_can_be_imported_is_sent_by_name():
    """So that its cache, and what else its module holds, is the one of the other process."""
    assert pickle.loads(pickled(fnmatch._compile_pattern)) is fnmatch._compile_pattern
