"""The loss kernel of the induction transformer: texts that it can copy, and texts that it cannot."""

import sys
from pathlib import Path

import torch

import devinterp

sys.path.insert(0, str(Path(__file__).parent))
from induction import HALF, VOCABULARY, data, load, texts

generator = torch.Generator().manual_seed(8)
half = torch.randint(VOCABULARY, (16, HALF // 2), generator=generator)
kinds = {
    "copied once": texts(16, seed=7),
    "copied thrice": half.repeat(1, 4),
    "random": torch.randint(VOCABULARY, (16, 2 * HALF), generator=generator),
}
tree = devinterp.sample(
    load(checkpoint=400, seed=0), data(), kinds, sampling_method="baoab", lr=3e-3, n_beta=100.0, localization=50.0,
    num_chains=4, num_draws=200, num_burnin_steps=100, num_steps_bw_draws=4, batch_size=16, batches_per_draw=1,
    progress=False,
)  # fmt: skip
result = tree.slt.loss_kernel()
means = result[["group_mean", "group_mean_se"]]
for first in kinds:
    pairs = [means.sel(group=first, other_group=second) for second in kinds]
    print(f"{first:14}", *(f"{float(pair.group_mean):6.3f} ± {float(pair.group_mean_se):.3f}" for pair in pairs))
tree.slt.plot.loss_kernel(result=result).savefig("loss_kernel.png")
