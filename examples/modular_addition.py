"""Modular addition: a network that has found the rule has fewer stiff directions than one that knows as many answers by heart.

Two networks of one kind learn 70 % of the table of ``a + b mod 23``, one the true sums, one shuffled ones. The first answers
the rest, too, and its coefficient is half as large: at this localization, on which both depend, as `diagnose` warns.
Where localization is weak (5 instead of 100) all directions count, and the two are equal within a hundredth.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import devinterp

P, WIDTH, STEPS = 23, 96, 1500


class Squares(nn.Module):
    """The activation; products of cosines are cosines of sums."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the squares."""
        return x.square()


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the squared error of each row."""
    return (model(batch[0]) - batch[1]).square().sum(1)


def train(x: Tensor, y: Tensor) -> nn.Module:
    """Return a network that answers; weight decay, which makes it general, ends before training does."""
    model = nn.Sequential(nn.Linear(2 * P, WIDTH, bias=False), Squares(), nn.Linear(WIDTH, P, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1.0)
    for step in range(2 * STEPS):
        if step >= STEPS:
            optimizer.param_groups[0].update(weight_decay=0.0, lr=5e-3 * (2 - step / STEPS))
        optimizer.zero_grad()
        loss_fn(model, (x, y)).mean().backward()
        optimizer.step()
    return model


torch.manual_seed(0)
table = torch.cartesian_prod(torch.arange(P), torch.arange(P))[torch.randperm(P * P)]
sums, num_seen = table.sum(1) % P, int(0.7 * P * P)
x = one_hot(table, P).flatten(1).float()
for name, answers in (("true sums", sums), ("shuffled sums", sums[torch.randperm(P * P)])):
    y = one_hot(answers, P).float()
    model = train(x[:num_seen], y[:num_seen])
    right = (model(x).argmax(1) == answers).float()
    tree = devinterp.sample(
        model, (x[:num_seen], y[:num_seen]), loss_fn=loss_fn, sampling_method="baoab", lr=1e-4, n_beta=1000.0,
        localization=100.0, num_burnin_steps=300, num_steps_bw_draws=2, batch_size=num_seen,
    )
    llc, findings = tree.slt.llc(), tree.slt.diagnose()
    print(f"{name}: right on {right[:num_seen].mean():.0%} of what it has seen, {right[num_seen:].mean():.0%} of the rest")
    print(f"  coefficient {float(llc.paired_llc_mean):.1f} ± {float(llc.paired_llc_se):.1f}", *findings["code"].values)
