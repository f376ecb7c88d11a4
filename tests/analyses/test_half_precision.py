r"""What storing losses as float16 does to results: docs/performance.md states the bounds that are checked here.

Rounding adds to a loss white noise of standard deviation :math:`\Delta / \sqrt{12}`, with :math:`\Delta` the spacing of float16
at the loss, as long as the loss moves by more than that from draw to draw.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.testing import synthetic_tree

N_BETA, NUM_DRAWS = 20.0, 800  # chains x draws


def _runs(scale: float) -> tuple[xr.DataTree, xr.DataTree]:
    """Return a run of which a token's loss has a standard deviation of about ``0.2 * scale``, in float32 and in float16."""
    tree = synthetic_tree(
        num_restrictions=2, num_draws=200, num_tokens=33, observables={"train": (16, 33), "code": (12, 33)}
    )
    for name in ("train", "code"):
        start, loss = tree[f"observables/{name}/init_loss"], tree[f"observables/{name}/loss"]
        tree[f"observables/{name}/loss"] = (start + scale * (loss - start)).transpose(*loss.dims)
    half = tree.copy(deep=True)
    for path in ("trace/loss", "observables/train/loss", "observables/code/loss"):
        half[path] = half[path].astype(np.float16)
    return tree, half


def _spacing_and_spread(tree: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest spacing of float16 at the losses of each token of ``code``, and their standard deviation."""
    loss = tree["observables/code/loss"]
    spacing = np.spacing(loss.max(("restriction", "chain", "draw")).to_numpy().astype(np.float16)).astype(float)
    return spacing, loss.std(("chain", "draw")).to_numpy()


@pytest.mark.parametrize("scale", [1, 0.1])
def test_rounding_is_white_noise(scale):
    tree, half = _runs(scale)
    spacing, spread = _spacing_and_spread(tree)
    noise = spacing / np.sqrt(12)
    difference = np.abs(token_llc(half, "code")["llc"] - token_llc(tree, "code")["llc"])
    assert (difference <= 5 * N_BETA * noise / np.sqrt(NUM_DRAWS)).all()
    # A correlation shrinks by the share of the noise in both variances; what noise and losses correlate by chance comes on top.
    share = (noise / spread) ** 2
    pairs = share[:, :, None, :, None] + share[:, None, :, None, :]
    exact, rounded = (compute_bif(run, loss_keys="code")["influences"].to_numpy() for run in (tree, half))
    assert (np.abs(rounded - exact) <= np.abs(exact) * pairs / 2 + 5 * np.sqrt(pairs / NUM_DRAWS)).all()


#: Standard deviation of a token's loss, and the largest errors that docs/performance.md states for it.
BOUNDS = {
    1: {
        "llc": 0.01,
        "observables": 0.01,
        "tokens": 0.03,
        "influence": 0.003,
        "averaged": 0.03,
        "susceptibilities": 0.05,
    },
    0.1: {"llc": 0.01, "observables": 0.01, "tokens": 0.3, "influence": 0.03, "averaged": 0.3, "susceptibilities": 0.5},
}


@pytest.mark.parametrize("scale", BOUNDS)
def test_the_largest_errors_are_as_documented(scale):
    """In Monte Carlo standard errors, but for influences between tokens: near 1 a correlation has next to none."""
    runs = _runs(scale)
    llc, llc_half = (compute_llc(run) for run in runs)
    tokens, tokens_half = (token_llc(run, "code") for run in runs)
    influences, influences_half = (compute_bif(run)["influences"] for run in runs)
    averaged, averaged_half = (compute_bif(run, average_tokenwise_bif=True, standard_errors=True) for run in runs)
    chi, chi_half = (compute_susceptibilities(run, "train", include_sampling_task=True)["labelled"] for run in runs)

    def largest(exact, rounded, error=1.0):
        return float((np.abs(rounded - exact) / error).max())

    assert largest(llc["llc_mean"], llc_half["llc_mean"], llc["llc_mcse"]) < BOUNDS[scale]["llc"]
    name = "observable_llc_mean"
    assert largest(llc[name], llc_half[name], llc["observable_llc_mcse"]) < BOUNDS[scale]["observables"]
    assert largest(tokens["llc"], tokens_half["llc"], tokens["llc_mcse"]) < BOUNDS[scale]["tokens"]
    assert largest(influences, influences_half) < BOUNDS[scale]["influence"]
    errors = averaged["influences_se"]
    assert largest(averaged["influences"], averaged_half["influences"], errors) < BOUNDS[scale]["averaged"]
    name = "susceptibility"
    assert largest(chi[name], chi_half[name], chi["susceptibility_se"]) < BOUNDS[scale]["susceptibilities"]
