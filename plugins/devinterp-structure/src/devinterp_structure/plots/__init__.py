"""Pictures of the steps from susceptibilities to structure: ``tree.slt.plot.<name>()``, where devinterp-plots is installed.

A module for each picture, named as the analysis that it draws; `points` is the scatter of tokens that several share. Each draws
a run, or the ``result=`` of the analysis that was computed, or stored, before.
"""

from __future__ import annotations

from devinterp.analyses.susceptibilities.prepared import REQUIRES
from devinterp.types import Plot
from devinterp_plots.themes import themed
from devinterp_structure.loss_covariance import REQUIRES as LOSSES
from devinterp_structure.plots import clusters as _clusters
from devinterp_structure.plots import embedding as _embedding
from devinterp_structure.plots import essential_dynamics as _essential_dynamics
from devinterp_structure.plots import loss_kernel as _loss_kernel
from devinterp_structure.plots import neighbours as _neighbours
from devinterp_structure.plots import patterns as _patterns
from devinterp_structure.plots import pca as _pca
from devinterp_structure.plots import response_matrix as _response_matrix
from devinterp_structure.plots import stability as _stability
from devinterp_structure.plots import trajectory_clusters as _trajectory_clusters

__all__ = [
    "clusters",
    "embedding",
    "essential_dynamics",
    "loss_kernel",
    "neighbours",
    "patterns",
    "pca",
    "response_matrix",
    "stability",
    "trajectory_clusters",
]

#: Functions of a tree, under the names of the modules that draw them.
clusters = themed(_clusters.clusters)
embedding = themed(_embedding.embedding)
neighbours = themed(_neighbours.neighbours)
patterns = themed(_patterns.patterns)
pca = themed(_pca.pca)
response_matrix = themed(_response_matrix.response_matrix)
loss_kernel = themed(_loss_kernel.loss_kernel)
stability = themed(_stability.stability)

#: Functions of results, which are of whole training runs rather than of one tree.
essential_dynamics = themed(_essential_dynamics.essential_dynamics)
trajectory_clusters = themed(_trajectory_clusters.trajectory_clusters)


def all_plots() -> list[Plot]:
    """Return the pictures of this distribution."""
    functions = (response_matrix, pca, neighbours, clusters, stability, patterns, embedding)
    of_responses = [Plot(name=function.__name__, draw=function, requires=REQUIRES) for function in functions]
    return [*of_responses, Plot(name="loss_kernel", draw=loss_kernel, requires=LOSSES)]
