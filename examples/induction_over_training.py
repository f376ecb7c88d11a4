"""Induction over training: when do which heads of a small transformer change? Refined coefficients at five checkpoints.

The transformer (docs/examples/induction.py) learns to repeat: the second half of every text is its first. Its loss there falls
at once between steps 60 and 150, and there, not before, the coefficients of its layers rise (arXiv:2410.02984).
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import devinterp

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))
import induction  # beside the documentation, whose study of 24 checkpoints uses it, too

STEPS = [0, 60, 100, 150, 300]


def load(checkpoint: int) -> torch.nn.Module:
    """Return the model after so many steps of training."""
    return induction.load(checkpoint, seed=0)


def loss_on_second_half(checkpoint: int) -> float:
    """Return the mean loss of tokens that occurred before."""
    texts = induction.data()
    with torch.no_grad():
        logits = load(checkpoint)(texts)
    half = induction.HALF
    return float(cross_entropy(logits[:, half:-1].flatten(0, 1), texts[:, half + 1 :].flatten()))


tree = devinterp.study(
    load, induction.data(), over={"checkpoint": STEPS}, weight_restrictions=["l0", "l1", "l1h0", "l1h1", "l1h2",
    "l1h3"], sampling_method="baoab", lr=3e-4, n_beta=100.0, localization=50.0, num_chains=2, num_draws=100,
    num_burnin_steps=100, batch_size=16, num_init_loss_batches=8, record="sequence", progress=False,
)
llc = tree.slt.llc()
print("step  loss", *(f"{name:>13}" for name in llc.restriction.values))
for step in STEPS:
    row = llc.sel(checkpoint=step)
    pairs = zip(row.paired_llc_mean.values, row.paired_llc_se.values, strict=True)
    print(f"{step:4}  {loss_on_second_half(step):4.2f}", *(f"{mean:6.2f} ± {error:4.2f}" for mean, error in pairs))
