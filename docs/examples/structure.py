"""Which heads of the small transformer of induction.py copy tokens, seen in the responses of tokens alone."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import devinterp
from devinterp_structure import patterns, pca, separation

sys.path.insert(0, str(Path(__file__).parent))
from induction import HALF, VOCABULARY, data, load, texts

model = load(checkpoint=400, seed=0)
random = torch.randint(VOCABULARY, (32, 2 * HALF), generator=torch.Generator().manual_seed(8))
tree = devinterp.sample(
    model, data(), {"task": data()[:32], "copied": texts(32, seed=7), "random": random}, sampling_method="baoab", lr=3e-3,
    n_beta=100.0, localization=50.0, num_chains=4, num_draws=100, num_burnin_steps=50, num_steps_bw_draws=4,
    batch_size=16, batches_per_draw=2, weight_restrictions=devinterp.restrictions(model, "head"), progress=False,
)  # fmt: skip
matrix = tree.slt.response_matrix("task", estimator="single_run")
components, labels = pca(matrix, num_components=4), patterns(matrix)
print(components[["explained_variance", "signal_variance", "signal_variance_se"]].to_dataframe())
areas = separation(components, labels).sel(pattern="induction")
print(areas[["auc", "auc_se"]].to_dataframe())
best = int(abs(areas["auc"] - 0.5).idxmax("component"))  # which tells copied tokens from the others
print(components["loading"].to_pandas().T.round(2))
shown = (best, 1 if best != 1 else 2)
tree.slt.plot.pca(result=components, labels=labels, components=shown).savefig("components.png")
tree.slt.plot.response_matrix(result=matrix, labels=labels).savefig("responses.png")
