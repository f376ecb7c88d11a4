"""Choose the settings of a run: `calibrate`."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from devinterp.calibration.grid import Planned, first_points, posteriors
from devinterp.calibration.measure import measure
from devinterp.calibration.measured import Measured
from devinterp.calibration.naming import dims_of
from devinterp.calibration.record import Record
from devinterp.calibration.request import KERNELS, MAX_SLOPE, N_BETAS, Request, measuring_settings
from devinterp.calibration.result import TO_BE_RUN, Calibration, Row
from devinterp.calibration.rows import row_of, static_failure
from devinterp.calibration.search import Search
from devinterp.calibration.short_runs import ShortRuns
from devinterp.calibration.subject import Subject, as_models
from devinterp.errors import CalibrationRefused, InvalidInputError
from devinterp.sampling.losses.loss import LossFunction
from devinterp.sampling.run_store.fingerprint import fingerprints
from devinterp.store.calibration_store import CalibrationStore
from devinterp.types import ModelAdapter

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike


def calibrate(
    model: nn.Module | Mapping[str, nn.Module],
    dataset: Any,
    observables: Mapping[str, Any] | None = None,
    *,
    n_beta: float | Sequence[float] | None = None,
    localization: float | Sequence[float] | None = None,
    lr: float | Sequence[float] | None = None,
    kernels: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = KERNELS,
    batch_size: int | Sequence[int] = 32,
    num_chains: int = 4,
    error: float = 0.05,
    max_gradients: int = 50_000,
    max_slope: float = MAX_SLOPE,
    param_masks: Mapping[str, Any] | str | Sequence[str] | None = None,
    weight_restrictions: Mapping[str, Any] | Sequence[str] | None = None,
    loss_fn: LossFunction | None = None,
    loss_dims: Sequence[str] | None = None,
    loss_id: str | None = None,
    adapter: str | ModelAdapter | None = None,
    device: str | torch.device | None = None,
    init_seed: int = 7000,
    output_path: StoreLike | None = None,
    progress: bool | None = None,
    dry_run: bool = False,
) -> Calibration:
    r"""Choose the settings of a run by measurements and short runs, or refuse.

    Measured at w0: the largest second derivative of the loss, and the noise of gradients. From these the greatest step follows
    for each kernel, inverse temperature and localization. Then short runs, judged by ``tree.slt.diagnose()``: settings whose
    coefficient localization decides least come first, and the first one is recommended that is good at all checkpoints and
    restrictions, whose coefficient is the same at half the step, does not survive at ``n_beta`` zero, and is little smaller at
    twice the localization. docs/calibration.md has the procedure and its sources.

    Parameters
    ----------
    model : torch.nn.Module or mapping of str to torch.nn.Module
        The model, or checkpoints by label: one setting is then looked for that is good at all of them.
    dataset, observables : object
        As for `devinterp.sample`.
    n_beta : float or sequence of float, optional
        Inverse temperatures to try, above 0. Default: 10, 30, 100, and n / log n for n rows, where that is larger.
    localization : float or sequence of float, optional
        Strengths of localization to try, above 0. Default: 0.001 to 0.3 times the largest second derivative of ``n_beta`` L.
    lr : float or sequence of float, optional
        Step sizes to try, instead of the greatest that the kernel's law allows and its halves.
    kernels : str, sequence of str, or mapping of str to mapping, default: ("baoab", "sgld")
        Kernels to try, or their options by name: those of docs/kernels.md but for ``"sgnht"``.
    batch_size : int or sequence of int, default: 32
        Rows of a minibatch. Of several the least is taken whose noise does not make steps smaller.
    num_chains : int, default: 4
        Chains of the short runs and of the run that is recommended; at least 2.
    error : float, default: 0.05
        Standard error of the coefficient that the recommended run is to have, as a share of it; in (0, 1).
    max_gradients : int, default: 50,000
        Gradients of minibatches that all of it may take; no run is begun that would take more.
    max_slope : float, default: 0.75
        How much localization may decide, as the slope ``-d log llc / d log localization``: 0 where it has no part in the
        coefficient, 1 where it decides it; above 0. Above 0.25, where `diagnose` warns, the recommendation says so; a setting
        whose run is rejected is not recommended whatever this is. It changes no run: a calibration in a store goes on with
        another value.
    param_masks, weight_restrictions : object, optional
        What is sampled, as for `devinterp.sample`; one setting is looked for that is good for all restrictions.
    loss_fn, loss_dims, loss_id, adapter, device : object, optional
        As for `devinterp.sample`.
    init_seed : int, default: 7000
        Seeds the data order and noise of the short runs; other than that of `devinterp.sample`, so that the run that goes on
        from here is independent of what chose its settings.
    output_path : str or path, optional
        Store of all runs, one group each. An interrupted calibration goes on from it, and a finished one is read from it. None
        keeps the runs in memory.
    progress : bool, optional
        Whether to show progress bars of the short runs.
    dry_run : bool, default: False
        Whether to only measure, and to list the settings that would be run. Nothing is written.

    Returns
    -------
    Calibration
        ``settings``, the arguments of `devinterp.sample` that are recommended, with minibatches of their own for chains where
        shared ones would be much of the error; ``points``, every setting that was considered and what became of it; ``tree``,
        the runs. Its text is a table of all that.

    Raises
    ------
    CalibrationRefused
        If no setting passes; the message has the criterion that failed at each, and ``calibration`` the rest.
    InvalidInputError
        If anything given cannot be used.
    StoreMismatchError
        If `output_path` holds another calibration.
    """
    request = Request.of(
        kernels, n_beta, localization, lr, batch_size,
        num_chains=num_chains, error=error, max_gradients=max_gradients, max_slope=max_slope, init_seed=init_seed,
    )  # fmt: skip
    subject = Subject(
        as_models(model), dataset, observables, param_masks, weight_restrictions,
        loss_fn, loss_dims, loss_id, adapter, device, progress,
    )  # fmt: skip
    if dry_run:
        return _dry_run(request, subject)
    if output_path is not None:
        return _finished(_calibrate(request, subject, output_path))
    with tempfile.TemporaryDirectory(prefix="devinterp-") as directory:
        calibration = _calibrate(request, subject, Path(directory) / "calibration.zarr")
        if calibration.tree is not None:
            calibration.tree.load()
        return _finished(calibration)


def _finished(calibration: Calibration) -> Calibration:
    if calibration.recommendation is None:
        raise CalibrationRefused(str(calibration), calibration=calibration)
    return calibration


def _calibrate(request: Request, subject: Subject, location: StoreLike) -> Calibration:
    """Carry out a calibration in a store, or what is missing of it."""
    store = CalibrationStore.at(location, dims_of(subject.models))
    prints, num_rows = _fingerprints(request, subject, like=(store.read() or {}).get("fingerprints", {}))
    n_betas = n_betas_of(request, num_rows)
    record = Record(store, request.to_json(), prints)
    with store.lock():
        measured = record.measured
        if measured is None:
            measured = _measured(request, subject, n_betas)
            record.keep_measured(measured)
        runs = _runs(request, subject, record, measured)
        search = Search(request, measured, n_betas, runs)
        recommendation = search.run()
        calibration = Calibration(
            request.to_json(), prints, measured, list(search.rows.values()), recommendation, runs.num_gradients
        )
        record.finish(calibration)
    return replace(calibration, tree=store.open_tree()) if store.num_runs() else calibration


def _dry_run(request: Request, subject: Subject) -> Calibration:
    prints, num_rows = _fingerprints(request, subject)
    n_betas = n_betas_of(request, num_rows)
    measured = _measured(request, subject, n_betas)
    runs = _runs(request, subject, None, measured)
    rows: list[Row] = []
    for posterior in posteriors(request, measured, n_betas):
        for law in request.laws.values():
            for point in first_points(request, law, posterior, measured):
                planned = Planned.of(point, law, measured)
                failure = static_failure(planned, runs)
                num = 0 if failure else runs.first_gradients(planned)
                rows.append(row_of(planned, failure, (), outcome=TO_BE_RUN, num_gradients=num))
    return Calibration(request.to_json(), prints, measured, rows, None, runs.num_gradients)


def n_betas_of(request: Request, num_rows: int) -> tuple[float, ...]:
    """Return the inverse temperatures to try for a dataset of some rows."""
    if request.n_betas is not None:
        return request.n_betas
    standard = round(num_rows / math.log(num_rows)) if num_rows > 1 else 0
    return (*N_BETAS, float(standard)) if standard > max(N_BETAS) else N_BETAS


def _runs(request: Request, subject: Subject, record: Record | None, measured: Sequence[Measured]) -> ShortRuns:
    return ShortRuns(
        request,
        subject,
        record,
        num_restrictions=len({each.restriction for each in measured}),
        num_gradients=sum(each.num_gradients for each in measured),
    )


def _fingerprints(
    request: Request, subject: Subject, *, like: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], int]:
    """Return what identifies checkpoints, data, loss and masks, and the number of rows of the dataset.

    Where a store has fingerprints already, those of the same checkpoints are made in the same form.
    """
    prints, num_rows = {}, 0
    for checkpoint in subject.models:
        with subject.spec(checkpoint, measuring_settings(request)) as spec:
            prints[checkpoint] = fingerprints(spec, like=(like or {}).get(checkpoint))
            num_rows = spec.num_rows
    return prints, num_rows


def _measured(request: Request, subject: Subject, n_betas: Sequence[float]) -> list[Measured]:
    measured = []
    for checkpoint in subject.models:
        with subject.spec(checkpoint, measuring_settings(request)) as spec:
            measured += measure(spec, n_betas, checkpoint=checkpoint)
    bad = [each for each in measured if not math.isfinite(each.h_max + each.noise + each.gradient_square)]
    if bad:
        raise InvalidInputError(
            f"the gradient of the loss at w0 is not finite under the restriction {bad[0].restriction!r}: check the model "
            "and the data."
        )
    return measured
