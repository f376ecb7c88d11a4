"""A plan of a small study, and the module that makes its models and data."""

from __future__ import annotations

PLAN = """
models = "loader.py:load"
dataset = "loader.py:data"
output_path = "study.zarr"

[observables]
numbers = "numbers.npy"

[over]
checkpoint = "0,1,2,4,...,8"
seed = [1, 2]

[sample]
lr = 1e-3
n_beta = 20.0
localization = 5.0
num_chains = 2
num_draws = 3
batch_size = 4
num_init_loss_batches = 2
batches_per_draw = 1
weight_restrictions = ["mix.*"]
"""
LOADER = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(23, 6), nn.Linear(6, 6), nn.Linear(6, 23)

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embed(ids))))


def load(checkpoint):
    torch.manual_seed(checkpoint)
    return Model().eval()


def data():
    return torch.arange(24 * 9).reshape(24, 9) % 23
"""
