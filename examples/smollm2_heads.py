"""Heads of SmolLM2-135M: whether one of the last layer is more sensitive to code than to prose.

One head of each of the last layer's three groups is sampled by itself, on prose, and losses on prose and code are recorded at
the same draws, so that the difference of their coefficients has an error of its own. 29 of 30 layers are computed only once.
Two minutes on two cores are enough to see how it is done, not to answer: the coefficients are a few hundredths with errors as
large, and the verdict rejects the run for too little signal. Sixteen times the draws make errors a quarter.
"""

import devinterp
from devinterp import sources
from devinterp.analyses.common.convergence import summary

HEADS, LENGTH, ROWS = ["l29h0", "l29h3", "l29h6"], 32, 48

model, tokenizer = sources.load_model("smollm2")
texts = {name: sources.load_sequences(name, tokenizer, length=LENGTH, limit=ROWS) for name in ("prose", "code")}
tree = devinterp.sample(
    model, texts["prose"], {name: (rows, 1) for name, rows in texts.items()}, weight_restrictions=HEADS,
    sampling_method="baoab", sampling_method_kwargs={"friction": 0.5}, lr=1e-3, n_beta=30.0, localization=1000.0,
    num_chains=2, num_burnin_steps=20, num_draws=40, batch_size=2, num_init_loss_batches=8,
)
print(f"verdict on the run: {tree.slt.diagnose().attrs['verdict']}")
for head in HEADS:
    rise = {
        name: 30.0 * (tree[f"observables/{name}/loss"] - tree[f"observables/{name}/init_loss"]).sel(restriction=head)
        .mean(["sequence", "position"]) for name in texts
    }
    rise["code - prose"] = rise["code"] - rise["prose"]
    cells = (f"{name} {float(series.mean()):6.3f} ± {float(summary(series).mcse):.3f}" for name, series in rise.items())
    print(f"{head:6}", *cells, sep="  ")
