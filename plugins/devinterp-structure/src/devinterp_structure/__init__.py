"""From susceptibilities to structure: response matrices, their components, neighbours, clusters, and how stable these are.

A call passes the modules in this order: `response` (a run's matrix, from `estimates`), `matrix` (further steps, by
`transforms`), then any of `pca` (`components`, `signal_variance`), `neighbours` (`exact_neighbours`, `approximate_neighbours`),
`clusters` (`graph`, `sweeps`), `stability`, `embedding` and `patterns`; `agreement`, `separation` and `cluster_table` compare
and list results. Each step takes a run, or the result of the step before, and returns a labelled Dataset that is lazy where its
input is and whose attribute ``steps`` lists what was done to get there. `lazy` and `column_moments` are what all of them share.
`patterning` (from `loss_covariance`) asks the reverse: which weights of the data would move losses as wanted. Beside responses,
`loss_kernel` has the correlations of losses, and two steps take whole training runs: `essential_dynamics` (`plane_curves`) the
outputs of checkpoints, `trajectory_clusters` their coefficients.
scikit-learn, faiss and umap-learn are imported when they are needed, not when plugins are listed.
"""

from __future__ import annotations

import importlib.util

from devinterp.analyses.susceptibilities.prepared import REQUIRES
from devinterp.hookspecs import hookimpl
from devinterp.types import Analysis, Plot
from devinterp_structure.agreement import agreement
from devinterp_structure.cluster_table import cluster_table
from devinterp_structure.clusters import clusters
from devinterp_structure.embedding import embedding
from devinterp_structure.essential_dynamics import essential_dynamics
from devinterp_structure.gaussian_null import gaussian_null
from devinterp_structure.loss_covariance import REQUIRES as PATTERNING_REQUIRES
from devinterp_structure.loss_kernel import loss_kernel
from devinterp_structure.matrix import matrix_of_chains, transformed
from devinterp_structure.neighbours import neighbours
from devinterp_structure.patterning import patterning, predicted_change
from devinterp_structure.patterns import PATTERNS, patterns
from devinterp_structure.pca import pca
from devinterp_structure.response import response_matrix
from devinterp_structure.separation import separation
from devinterp_structure.stability import stability
from devinterp_structure.trajectory_clusters import trajectory_clusters

__all__ = [
    "PATTERNS",
    "agreement",
    "cluster_table",
    "clusters",
    "embedding",
    "essential_dynamics",
    "gaussian_null",
    "loss_kernel",
    "matrix_of_chains",
    "neighbours",
    "patterning",
    "patterns",
    "pca",
    "predicted_change",
    "response_matrix",
    "separation",
    "stability",
    "trajectory_clusters",
    "transformed",
]


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analyses of this distribution."""
    functions = (response_matrix, pca, neighbours, clusters, stability, patterns, embedding)
    of_responses = [Analysis(name=function.__name__, compute=function, requires=REQUIRES) for function in functions]
    of_losses = [
        Analysis(name=each.__name__, compute=each, requires=PATTERNING_REQUIRES) for each in (patterning, loss_kernel)
    ]
    return [*of_responses, *of_losses]


@hookimpl
def devinterp_plots() -> list[Plot]:
    """Return the pictures of this distribution: none where devinterp-plots, which they are drawn with, is not installed."""
    if importlib.util.find_spec("devinterp_plots") is None:
        return []
    from devinterp_structure.plots import all_plots

    return all_plots()
