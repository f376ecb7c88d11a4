"""Sampling kernels: one stochastic-gradient MCMC algorithm a file, each a plugin."""
