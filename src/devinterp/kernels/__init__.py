"""Sampling kernels: one stochastic-gradient MCMC algorithm a file, each registered by an entry point.

A run calls `build_transition` with the kernel that its user named; what it returns moves the weights. In each file: the
equations, ``build`` with the options and what is known of its law, the class that takes the steps, and the hook.
"""

from __future__ import annotations

from devinterp.kernels.build import build_transition

__all__ = ["build_transition"]
