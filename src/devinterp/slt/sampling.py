"""Sample around the weights of a model: `sample`, with the arguments of DevInterp 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import xarray as xr
from torch import nn

from devinterp.sampling.estimate import DryRun
from devinterp.sampling.losses.loss import LossFunction
from devinterp.sampling.options import RunOptions
from devinterp.slt.prepared_run import carry_out, prepared_run
from devinterp.types import ModelAdapter, Recorder

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike


def sample(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any] | None = None,
    *,
    lr: float,
    n_beta: float,
    param_masks: Mapping[str, Any] | str | Sequence[str] | None = None,
    weight_restrictions: Mapping[str, Any] | Sequence[str] | None = None,
    num_chains: int = 4,
    num_draws: int = 200,
    batch_size: int = 32,
    num_burnin_steps: int = 0,
    num_steps_bw_draws: int = 1,
    num_init_loss_batches: int = 32,
    init_seed: int = 100,
    batches_per_draw: int = 3,
    obs_seed: int = 1337,
    gradient_accumulation_steps: int = 1,
    localization: float = 0.0,
    noise_level: float = 1.0,
    max_grad_norm: float | None = None,
    llc_weight_decay: float = 0.0,
    bounding_box_size: float | None = None,
    sampling_method: str = "sgmcmc_sgld",
    sampling_method_kwargs: Mapping[str, Any] | None = None,
    rmsprop_eps: float | None = None,
    rmsprop_alpha: float | None = None,
    shuffle: bool = True,
    match_sampling_input_ids_across_chains: bool = True,
    init_noise: float | None = None,
    device: str | torch.device | None = None,
    save_metrics: bool | Sequence[str] = False,
    record: Literal["token", "sequence", "moments"] = "token",
    loss_dtype: Literal["float32", "float16"] = "float32",
    paired: bool | None = None,
    virial: bool = True,
    curvature_directions: int = 0,
    recorders: Mapping[str, Any] | Sequence[str | Recorder] | str | Recorder | None = None,
    null: bool = False,
    output_path: StoreLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
    loss_fn: LossFunction | None = None,
    loss_dims: Sequence[str] | None = None,
    loss_id: str | None = None,
    adapter: str | ModelAdapter | None = None,
    chains: Literal["auto", "sequential", "vectorized", "fastest"] = "auto",
    compile: bool | str = False,  # noqa: A002  # the word torch has for it
    progress: bool | None = None,
    checkpoint_share: float = 0.03,
    keep_state: bool = False,
    notes: Mapping[str, Any] | None = None,
    workers: int | None = None,
    client: Any = None,
    repair: bool = False,
    dry_run: bool = False,
    options: RunOptions | None = None,
) -> xr.DataTree | DryRun:
    r"""Sample the local posterior around a model's weights, and record every loss on the way.

    The density is proportional to :math:`\exp(-n\beta L(w) - \tfrac{\gamma}{2}|w - w_0|^2 - \tfrac{\lambda}{2}|w|^2)`
    with :math:`L` the mean loss on `dataset` and :math:`w_0` the weights of `model`, which are put back afterwards.

    Parameters
    ----------
    model : torch.nn.Module
        A HuggingFace or TransformerLens model, or any module that returns logits ``(batch, token, vocabulary)`` or an object
        with ``.logits``. With `loss_fn`, any module. It stays in the train or eval mode it is in, and is byte for byte the
        same afterwards.
    dataset : object
        What :math:`L` is the mean loss of: a HuggingFace Dataset with a column ``input_ids`` in any format, or a tensor or
        array of token ids ``(sequence, token)``. An ``attention_mask`` column excludes padding, and so do ``labels`` of -100
        the tokens that have them. Also torch Datasets, DataLoaders (the rows of their sampler, through their ``collate_fn``),
        tuples and dicts of columns, data frames; docs/sampling.md has the table. With `loss_fn` rows may hold anything.
    observables : dict, optional
        Data whose losses are recorded at every draw: names to datasets, or to ``(dataset, batches_per_draw)``.
    lr : float
        Step size :math:`\epsilon > 0`; the drift is :math:`(\epsilon/2) \nabla U`.
    n_beta : float
        :math:`n\beta \ge 0`, inverse temperature times sample size; see `devinterp.utils.default_nbeta`. Zero samples the
        prior.
    param_masks : mapping, str or sequence of str, optional
        What is sampled: masks by parameter name, or a weight restriction such as ``"l0h1"`` (see
        `devinterp.slt.weight_restrictions.create_param_masks`). None samples every parameter that requires gradients; the
        provenance says which stay.
    weight_restrictions : mapping or sequence of str, optional
        Several restrictions in one run, instead of `param_masks`: names to what `param_masks` takes.
    num_chains, num_draws : int, default: 4, 200
        Chains, and draws of each.
    batch_size : int, default: 32
        Sequences of a minibatch.
    num_burnin_steps : int, default: 0
        Steps before the first draw; analyses leave them out.
    num_steps_bw_draws : int, default: 1
        Steps from one draw to the next.
    num_init_loss_batches : int, default: 32
        Minibatches (times `gradient_accumulation_steps`) that measure the loss at the start.
    init_seed : int, default: 100
        Seeds the data order, and with the chain's number added its noise.
    batches_per_draw : int, default: 3
        Default number of batches per observable.
    obs_seed : int, default: 1337
        Seeds the choice of the observables' rows.
    gradient_accumulation_steps : int, default: 1
        Minibatches of a step.
    localization : float, default: 0.0
        :math:`\gamma \ge 0`.
    noise_level : float, default: 1.0
        Standard deviation of :math:`\xi`; 1 samples the posterior, 0 is gradient descent.
    max_grad_norm : float, optional
        Clip the gradient of every step's minibatch loss (before :math:`n\beta`), over all sampled weights of a chain, to this
        norm, as `torch.nn.utils.clip_grad_norm_` does. Off by default. Where it clips, another law is sampled than the
        posterior: one whose loss rises less steeply, so that learning coefficients come out too large (docs/gotchas.md).
    llc_weight_decay : float, default: 0.0
        :math:`\lambda \ge 0`.
    bounding_box_size : float, optional
        Clamp every weight to within this of its start after each step.
    sampling_method : str, default: "sgmcmc_sgld"
        Name of a kernel: ``"sgld"`` (also ``"sgmcmc_sgld"``), ``"rmsprop_sgld"``, or one of a plugin.
    sampling_method_kwargs : mapping, optional
        Options of the kernel.
    rmsprop_eps, rmsprop_alpha : float, optional
        Options ``eps`` and ``alpha`` of ``"rmsprop_sgld"``.
    shuffle : bool, default: True
        Whether the dataset is permuted.
    match_sampling_input_ids_across_chains : bool, default: True
        Whether all chains see the same minibatches.
    init_noise : float, optional
        Standard deviation of noise added to the weights before the first step.
    device : str or torch.device, optional
        Where to sample. The model is copied there, once, unless it is there already. None: where the model is, but on the GPU
        if it is on the CPU and there is one, as in DevInterp 2.
    save_metrics : bool or sequence of str, default: False
        Whether to record norms and angles of the parts of every step in ``/metrics``, or which of them. Only by name there is
        ``"mala_acceptance"``, the probability that a Metropolis test on the step's minibatch would accept it: it takes a
        second gradient of every step, and is defined for ``"sgld"`` and ``"rmsprop_sgld"``. Near 0.9 is healthy.
    record : {"token", "sequence", "moments"}, default: "token"
        What of the losses is kept: those of all tokens; means of sequences, which suffice for learning coefficients and
        influences between sequences; or, for each token, only the moments that learning coefficients and susceptibilities
        need, gathered while sampling.
    loss_dtype : {"float32", "float16"}, default: "float32"
        Precision in which losses along the chains are stored; ``"float16"`` halves the store and rounds a loss by up to
        1 part in 2048 (docs/performance.md says what that does to results).
    paired : bool, optional
        Whether to store the loss at :math:`w_0` of every row that minibatches use, so that analyses can subtract the noise
        of the data (docs/errors.md). It costs one forward pass of each distinct row, shared by all chains and restrictions.
        None: where that is at most 15 % of the cost of the run's gradients. True completes a run that was made without.
    virial : bool, default: True
        Whether to record at draws what tells whether chains are at their temperature (``tree.slt.temperature()``): two dot
        products of the weights. What a store was made with stays.
    curvature_directions : int, default: 0
        Along how many of the directions in which the loss at :math:`w_0` curves most to record the temperature, too: stiff
        directions make the coefficient, and among the many flat ones they are not seen. Finding them takes 44 gradients of a
        minibatch for each and every restriction, and as much memory as that many copies of the sampled weights. At least 0; not
        with a bounding box. What a store was made with stays.
    recorders : mapping, sequence, str or Recorder, optional
        What else to store of the model at every draw, in ``/recordings``: names of recorders (``"logits"``, ``"sketch"``,
        ``"weight_norms"``, ``"full_loss"`` or those of plugins), `devinterp.Recorder` objects, or a dict of names to settings,
        such as ``{"sketch": {"size": 64}}``. A name of one's own takes the recorder as a setting,
        ``{"small": {"recorder": "sketch", "size": 8}}``. docs/recorders.md lists them and their cost.
    null : bool, default: False
        Whether to sample the same chains once more at ``n_beta=0``, as a run of its own in the group ``null``: what is seen
        there, too, is geometry of localization and not of the loss. It takes as long again.
    output_path : str, path or zarr store, optional
        Where the store is written. If it holds this very run already, its result is returned; what of it is missing (the
        rest of a run that was interrupted, more draws, chains, restrictions or observables than before) is sampled and
        added. None keeps the run in memory.
    storage_options : mapping, optional
        For fsspec, when `output_path` is a URL.
    loss_fn : callable, optional
        ``loss_fn(model, batch)``: losses ``(batch, *loss_dims)``; for token ids ``(batch, sequence - 1)``. Rows of nothing but
        ``input_ids`` come as one tensor, others as a dict of all columns. Losses of tokens that are padding, or have the
        label -100, are NaN and count nowhere. Default: cross-entropy of the next token.
    loss_dims : sequence of str, optional
        Names of the trailing dims of `loss_fn`'s losses. Default: ``("position",)`` where there is one for each predicted
        token, ``("token",)`` for each token, else none. Losses under these two names are masked where tokens are.
    loss_id : str, optional
        What identifies `loss_fn` when a store is compared with a run, instead of its source and the variables that it depends
        on: for functions that change, though the loss they compute does not.
    adapter : str or ModelAdapter, optional
        Which model adapter to use, instead of the one that matches.
    chains : {"auto", "sequential", "vectorized", "fastest"}, default: "auto"
        Whether chains run one after the other in the model, or side by side as one batched computation, which pays where
        the model is so small that Python costs more than arithmetic. The numbers agree to rounding. ``"auto"`` decides
        by the operations that a step takes, so that the same call gives the same numbers however busy the machine is;
        ``"fastest"`` by timing a step. The decision and what it was made from are recorded in the provenance. Chains of several
        restrictions that sample alike elements (heads of one layer) run side by side too.
    compile : bool or str, default: False
        Whether to compile the layers of the model with ``torch.compile``, or with which of its backends; True is
        ``"inductor"``. Only chains that run one after the other use it, and only where a step gives the same numbers; else
        the run goes on without and says why. It changes results in the last bits: give it again when a run is to go on.
    progress : bool, optional
        Whether to show progress bars. None: in a terminal or a notebook.
    checkpoint_share : float, default: 0.03
        How much of the time may go into saving the chains' state in the store, from where an interrupted run goes on; in
        [0, 1]. With 0 it is saved only when the process is asked to end (SIGTERM, Ctrl-C).
    keep_state : bool, default: False
        Whether to keep the state of chains that have ended (their weights, and what the kernel remembers), so that more draws
        go on from there. Without it their steps are taken again.
    notes : mapping, optional
        JSON-able values to record in the provenance.
    workers : int, optional
        Number of local worker processes, each with a copy of the model (and, of several GPUs, one for itself). None: sample in
        this process. The result does not depend on it.
    client : distributed.Client, optional
        Sample on this Dask cluster, at most one task on each worker; `output_path` must be within reach of all of them. The
        result does not depend on it.
    repair : bool, default: False
        Whether to read all that `output_path` holds already, and to sample again what is damaged.
    dry_run : bool, default: False
        Whether to only say what the run would cost: bytes of each array, model evaluations, and the time, from a few steps
        that are taken for it. Nothing is written.
    options : RunOptions, optional
        The arguments from `output_path` to `dry_run` that say where and how to sample, as one object, instead of each by
        itself.

    Returns
    -------
    xarray.DataTree
        The run, as described in ``docs/schema.md``; lazy when `output_path` is given. With `dry_run` a
        `devinterp.sampling.estimate.DryRun` instead.

    Raises
    ------
    InvalidInputError
        If anything given cannot be used; nothing has been sampled or written then.
    StoreError
        If `output_path` cannot be written, or holds something else.

    References
    ----------
    .. [1] E. Lau et al. The local learning coefficient: a singularity-aware complexity measure. arXiv:2308.12108.
    """
    given = dict(locals())  # every argument, by its name
    with prepared_run(given) as (spec, how):
        return carry_out(spec, how)
