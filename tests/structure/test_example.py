"""The example of the documentation: heads of a small transformer that copy, found in the responses of tokens."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
pytest.importorskip("devinterp_plots", reason="devinterp-plots is not installed")
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp_structure import pca, separation

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "structure.py"


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 40


@pytest.mark.slow
def test_copied_tokens_and_heads_of_the_second_layer_lie_on_one_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    names = runpy.run_path(str(SCRIPT))
    components, labels, matrix, best = (names[name] for name in ("components", "labels", "matrix", "best"))
    # Chains share more than nothing, and the component tells copied tokens from the others.
    assert confidence_interval(components, "total_signal_variance")["lower"] > 0
    at = {"pattern": "induction", "component": best}
    area = names["areas"]["auc"].sel(component=best)
    sign = 1 if area > 0.5 else -1
    assert sign * (area - 0.5) > 0.15
    # So it is in the estimate of each chain by itself.
    for chain in range(4):
        left_out = matrix["response_left_out"]
        alone = 4 * left_out.mean("left_out_chain") - 3 * left_out.isel(left_out_chain=chain, drop=True)
        scores = pca(matrix.assign(response=alone), basis=components, standard_errors="none")
        assert sign * (separation(scores, labels)["auc"].sel(at) - 0.5) > 0.05
    loading = sign * components["loading"].sel(component=best)
    first, second = (
        loading.sel(restriction=[name for name in loading["restriction"].values if name.startswith(layer)])
        for layer in ("l0", "l1")
    )
    assert second.mean() - first.mean() > 0.3
    assert (first < 0).all()
    assert {path.name for path in tmp_path.glob("*.png")} == {"components.png", "responses.png"}
