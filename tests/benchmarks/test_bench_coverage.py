"""How often stated 95 % intervals hold the truth, over the whole grid of docs/errors.md; ten minutes."""

from __future__ import annotations

import numpy as np
import pytest

from support.coverage import print_table

pytestmark = pytest.mark.benchmark


def test_coverage():
    print()
    measured = print_table()
    for name in measured[0][1]:
        held = np.array([estimates[name].coverage for _, estimates in measured])
        print(f"{name}: {held.mean():.1%} on average, {held.min():.1%} to {held.max():.1%}")
        assert 0.93 <= held.mean() <= 0.97
