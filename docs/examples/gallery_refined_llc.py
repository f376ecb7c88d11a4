"""Heads of the induction transformer, by how their refined learning coefficients go over training."""

import sys
from pathlib import Path

import devinterp
from devinterp_structure import plots, trajectory_clusters

sys.path.insert(0, str(Path(__file__).parent))
from induction import data, load

HEADS = [f"l{layer}h{head}" for layer in range(2) for head in range(4)]

tree = devinterp.study(
    lambda checkpoint: load(checkpoint, seed=0), data(), over={"checkpoint": [0, 30, 60, 80, 100, 120, 150, 200, 300, 400]},
    weight_restrictions=HEADS, sampling_method="baoab", lr=3e-3, n_beta=100.0, localization=50.0, num_chains=4,
    num_draws=60, num_burnin_steps=30, num_steps_bw_draws=2, batch_size=16, num_init_loss_batches=8, record="sequence",
)  # fmt: skip
llc = tree.slt.llc()
values, errors = llc["paired_llc_mean"], llc["paired_llc_se"]
result = trajectory_clusters(values, errors)
print(result[["cluster", "silhouette"]].to_dataframe().round(2))
print(f"stability {float(result['stability']):.2f} ± {float(result['stability_sd']):.2f}")
plots.trajectory_clusters(result, values, errors).savefig("refined_llc.png")
