"""Tokens in the space of the heads' responses, before, while and after the induction transformer learns to copy."""

import sys
from pathlib import Path

import devinterp
from devinterp_plots import style
from devinterp_structure import embedding, patterns, pca, plots, separation

sys.path.insert(0, str(Path(__file__).parent))
from induction import data, load, texts

figure = style.picture(12.0, 4.0)
for ax, checkpoint in zip(figure.subplots(1, 3), (40, 120, 400), strict=True):
    model = load(checkpoint, seed=0)
    heads = devinterp.restrictions(model, "head")
    observables = {"task": data()[:32], "copied": texts(32, seed=7)}
    tree = devinterp.sample(
        model, data(), observables, weight_restrictions=heads, sampling_method="baoab", lr=3e-3, n_beta=100.0,
        localization=50.0, num_chains=4, num_draws=60, num_burnin_steps=40, num_steps_bw_draws=4, batch_size=16,
        batches_per_draw=2, progress=False,
    )  # fmt: skip
    matrix = tree.slt.response_matrix("task", estimator="single_run")
    labels = patterns(matrix)
    plots.embedding(tree, result=embedding(matrix, num_neighbours=30), labels=labels, ax=ax)
    ax.set_title(f"after {checkpoint} steps", loc="left", fontsize=9)
    areas = separation(pca(matrix), labels).sel(pattern="induction")
    best = {"component": int(abs(areas["auc"] - 0.5).argmax("component"))}
    print(f"step {checkpoint:3}: {float(areas['auc'][best]):.3f} ± {float(areas['auc_se'][best]):.3f}")
figure.savefig("embryology.png")
