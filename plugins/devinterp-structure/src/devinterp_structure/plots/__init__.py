"""Pictures of the steps from susceptibilities to structure: ``tree.slt.plot.<name>()``, where devinterp-plots is installed.

A module for each picture, named as the analysis that it draws; `points` is the scatter of tokens that several share. Each draws
a run, or the ``result=`` of the analysis that was computed, or stored, before.
"""

from __future__ import annotations

from devinterp.analyses.susceptibilities.prepared import REQUIRES
from devinterp.types import Plot
from devinterp_plots.themes import themed
from devinterp_structure.plots import clusters as _clusters
from devinterp_structure.plots import embedding as _embedding
from devinterp_structure.plots import neighbours as _neighbours
from devinterp_structure.plots import patterns as _patterns
from devinterp_structure.plots import pca as _pca
from devinterp_structure.plots import response_matrix as _response_matrix
from devinterp_structure.plots import stability as _stability

__all__ = ["clusters", "embedding", "neighbours", "patterns", "pca", "response_matrix", "stability"]

#: Functions of a tree, under the names of the modules that draw them.
clusters = themed(_clusters.clusters)
embedding = themed(_embedding.embedding)
neighbours = themed(_neighbours.neighbours)
patterns = themed(_patterns.patterns)
pca = themed(_pca.pca)
response_matrix = themed(_response_matrix.response_matrix)
stability = themed(_stability.stability)


def all_plots() -> list[Plot]:
    """Return the pictures of this distribution."""
    functions = (response_matrix, pca, neighbours, clusters, stability, patterns, embedding)
    return [Plot(name=function.__name__, draw=function, requires=REQUIRES) for function in functions]
