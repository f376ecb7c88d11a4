"""Scores of other methods, from packages of their authors or of benchmarks: TRAK, EK-FAC, and likeness of features.

All take a shape, a model trained on all candidates, candidates and queries, and return ``(query, candidate)``, larger for a
candidate that lowers the query's loss more.
"""

from __future__ import annotations

import copy
import logging
import warnings
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from devinterp import optional
from devinterp_bench.attribution.shapes import Rows, Shape, row_losses

#: Dims of the random projection of gradients.
TRAK_DIMS = 512
#: Rows whose gradients are taken at once.
BATCH = 128


def feature_similarity(shape: Shape, model: nn.Module, candidates: Rows, queries: Rows) -> np.ndarray:
    """Compute the cosine of the inputs of the last layer, their mean over positions where a row has several."""
    features = [_features(shape, model, rows[0]) for rows in (queries, candidates)]
    return cosine_similarity(features[0][:, None], features[1][None], dim=-1).numpy()


def trak_scores(shape: Shape, model: nn.Module, candidates: Rows, queries: Rows) -> np.ndarray:
    """Compute TRAK's scores (arXiv:2303.14186) of one model with dattri, from gradients of the log odds of the right label."""
    task = optional.require("dattri.task", needed_by="TRAK")
    trak = optional.require("dattri.algorithm.trak", needed_by="TRAK")

    def log_probability(weights: dict[str, Tensor], row: Rows) -> Tensor:
        inputs, labels = row
        logits = torch.func.functional_call(model, weights, (inputs[None],))
        return -cross_entropy(logits.flatten(0, -2), labels.flatten())

    def log_odds(weights: dict[str, Tensor], row: Rows) -> Tensor:
        value = log_probability(weights, row).clamp(max=-1e-6)  # of a probability of 1 they are infinite
        return value - torch.log(-torch.expm1(value))

    attributor = trak.TRAKAttributor(
        task=task.AttributionTask(loss_func=log_odds, model=model, checkpoints=model.state_dict()),
        correct_probability_func=lambda weights, row: log_probability(weights, row).exp(),
        projector_kwargs={"proj_dim": TRAK_DIMS, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"},
        regularization=shape.trak_regularization,
    )
    # Gradients of rows are taken side by side, which torch's fused attention warns that it cannot.
    with sdpa_kernel(SDPBackend.MATH):
        attributor.cache(DataLoader(TensorDataset(*candidates), batch_size=BATCH))
        scores = attributor.attribute(DataLoader(TensorDataset(*queries), batch_size=BATCH))
    return np.asarray(scores.T.numpy(force=True), dtype=np.float64)


def ekfac_scores(shape: Shape, model: nn.Module, candidates: Rows, queries: Rows) -> np.ndarray:
    """Compute influence functions with the EK-FAC curvature of linear layers (arXiv:2308.03296) with kronfluence."""
    analyzer = optional.require("kronfluence.analyzer", needed_by="EK-FAC")
    arguments = optional.require("kronfluence.arguments", needed_by="EK-FAC")
    logging.getLogger("kronfluence").setLevel(logging.WARNING)
    task = _task()
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of kronfluence's own calls of torch
        torch.manual_seed(0)  # labels are drawn from the model
        prepared = analyzer.prepare_model(copy.deepcopy(model), task)
        runner = analyzer.Analyzer("ekfac", prepared, task, cpu=True, output_dir=folder, disable_tqdm=True)
        runner.fit_all_factors(
            "factors",
            TensorDataset(*candidates),
            per_device_batch_size=BATCH,
            factor_args=arguments.FactorArguments(strategy="ekfac"),
        )
        runner.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=TensorDataset(*queries),
            train_dataset=TensorDataset(*candidates),
            per_device_query_batch_size=BATCH,
            per_device_train_batch_size=BATCH,
            # A tenth of the mean eigenvalue of each layer, as the paper has it.
            score_args=arguments.ScoreArguments(damping_factor=None),
        )
        scores = runner.load_pairwise_scores("scores")["all_modules"]
    return np.asarray(scores.numpy(), dtype=np.float64)


def _task() -> Any:
    """Return what kronfluence asks for: the loss, its version with labels drawn from the model, and what is attributed."""
    kronfluence = optional.require("kronfluence.task", needed_by="EK-FAC")

    class CrossEntropy(kronfluence.Task):  # type: ignore[misc,name-defined]  # a class of a package that is optional
        def compute_train_loss(self, batch: Rows, model: nn.Module, sample: bool = False) -> Tensor:
            inputs, labels = batch
            logits = model(inputs).flatten(0, -2)
            if sample:
                with torch.no_grad():
                    labels = torch.multinomial(logits.softmax(-1), 1)
            return cross_entropy(logits, labels.flatten(), reduction="sum")

        def compute_measurement(self, batch: Rows, model: nn.Module) -> Tensor:
            return row_losses(model, batch).sum()

    return CrossEntropy()


def _features(shape: Shape, model: nn.Module, inputs: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.get_submodule(shape.last_layer).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        hook.remove()
    return seen[0] if seen[0].ndim == 2 else seen[0].flatten(1, -2).mean(1)
