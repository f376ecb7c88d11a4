"""A reward model: refined coefficients of its heads, on pairs of answers of which people (here a rule) prefer one.

A small transformer gives each text a score, and learns from pairs that more tokens 1 are better. A row is a pair of texts, and
the loss that of Bradley and Terry. Heads are found although no tokens are predicted: `example_inputs` says what is read.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForSequenceClassification

import devinterp

NUM, LENGTH = 4096, 16


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of each pair: minus the logarithm of the probability that the chosen text wins."""
    scores = [model(input_ids=batch[name]).logits.squeeze(-1) for name in ("chosen", "rejected")]
    return -logsigmoid(scores[0] - scores[1])


def pairs(num: int, seed: int) -> dict[str, Tensor]:
    """Return texts with more and with less tokens 1; one pair of eight is the wrong way round."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(2, 32, (2, num, LENGTH), generator=generator)
    texts[torch.rand(texts.shape, generator=generator) < torch.rand(2, num, 1, generator=generator)] = 1
    more = (texts[0] == 1).sum(1) >= (texts[1] == 1).sum(1)
    better = more ^ (torch.rand(num, generator=generator) < 1 / 8)
    return {name: torch.where(better[:, None], *both) for name, both in (("chosen", texts), ("rejected", texts.flip(0)))}


torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
config = LlamaConfig(vocab_size=32, num_labels=1, pad_token_id=0, **sizes)
model, data = LlamaForSequenceClassification(config), pairs(NUM, seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
for step in range(600):
    optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 600)  # to the minimum
    rows = torch.randint(NUM, (64,))
    optimizer.zero_grad()
    loss_fn(model, {name: column[rows] for name, column in data.items()}).mean().backward()
    optimizer.step()
with torch.no_grad():
    right = (loss_fn(model.eval(), pairs(1000, seed=1)) < 0.6931).float().mean()
print(f"prefers what is preferred in {right:.0%} of unseen pairs; 88 % could be had")

parts = ["l0", "l0h0", "l0h1", "l0h2", "l0h3", "l0 mlp"]
masks = {part: devinterp.create_param_masks(model, part, example_inputs=data["chosen"][:2]) for part in parts}
tree = devinterp.sample(
    model, data, loss_fn=loss_fn, weight_restrictions=masks, sampling_method="baoab", lr=5e-4, n_beta=300.0,
    localization=100.0, batch_size=128, num_chains=2, num_burnin_steps=100, num_draws=150,
)
llc = tree.slt.llc()
for name in parts:
    one = llc.sel(restriction=name)
    print(f"{name:7}{float(one.paired_llc_mean):6.2f} ± {float(one.paired_llc_se):.2f}")
findings = tree.slt.diagnose()
print("verdict on the run:", findings.attrs["verdict"], *set(findings["code"].values))
