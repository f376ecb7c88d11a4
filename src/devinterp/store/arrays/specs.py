"""The arrays of a run's store: path, dims, shape and chunks of each, before any exists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from devinterp import schema
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, ROW, SEQUENCE, STEP, TOKEN
from devinterp.selection import NUM_LOSSES
from devinterp.store.arrays.layout import ObservableLayout, RecordingLayout, RunLayout

_MIB = 2**20
#: A chunk of losses is between these sizes where the arrays are large enough. Measured: docs/performance.md.
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 4 * _MIB, 16 * _MIB
#: Arrays up to this size are read as a whole, if they are read at all (`devinterp.store.reading.stored_array`).
MAX_WHOLE_BYTES = 64 * _MIB
#: A writer buffers the draws of one chunk for all sequences; this bounds its buffer for one observable of one chain.
MAX_BUFFER_BYTES = 256 * _MIB

_NATS = {"units": "nats"}


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store, with its data where they are known beforehand."""

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: Any
    fill_value: Any
    data: Any = None
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Return its size in memory; that of strings is not known, and counts as that of their pointers."""
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


def loss_chunks(num_rows: int, num_samples: int, sample_bytes: int) -> tuple[int, int]:
    """Return how many draws (or steps) and how many samples a chunk of losses holds.

    Up to 64 samples by 16 draws; then more draws, and after them more samples, until the chunk has 4 MiB. Fewer where it
    would exceed 16 MiB, or where the writer's buffer, one chunk's draws of all samples, would exceed 256 MiB.

    Parameters
    ----------
    num_rows : int
        Length along draws or steps.
    num_samples : int
        Length along sequences or batch slots.
    sample_bytes : int
        Size of one sample's loss.

    Returns
    -------
    tuple of int
        ``(rows, samples)``, each at least 1.
    """
    sample_bytes = max(1, sample_bytes)
    samples = max(1, min(64, num_samples, MAX_CHUNK_BYTES // (16 * sample_bytes)))
    rows = max(16, MIN_CHUNK_BYTES // (samples * sample_bytes))
    max_rows = min(MAX_CHUNK_BYTES // (samples * sample_bytes), MAX_BUFFER_BYTES // (num_samples * sample_bytes))
    rows = max(1, min(rows, num_rows, max_rows))
    samples = max(samples, min(num_samples, MIN_CHUNK_BYTES // (rows * sample_bytes)))
    return rows, samples


def _losses(
    group: str, rows: str, samples: str, layout: RunLayout, num_rows: int, num_samples: int, loss_shape: tuple[int, ...]
) -> ArraySpec:
    """Return the array of a group's losses along chains: of tokens or sequences, or their mean at each step or draw."""
    pair = (len(layout.restrictions), layout.num_chains)
    if layout.record == "moments":
        path = f"{group}/{schema.MEAN_LOSS}"
        chunks = (1, 1, max(1, min(num_rows, 2**18)))
        return ArraySpec(path, (RESTRICTION, CHAIN, rows), (*pair, num_rows), chunks, np.float64, np.nan, attrs=_NATS)
    if layout.record == "sequence":
        loss_shape = ()
    dtype = np.dtype(layout.loss_dtype)
    chunk_rows, chunk_samples = loss_chunks(num_rows, num_samples, dtype.itemsize * math.prod(loss_shape))
    return ArraySpec(
        f"{group}/loss",
        (RESTRICTION, CHAIN, rows, samples, *(layout.loss_dims if loss_shape else ())),
        (*pair, num_rows, num_samples, *loss_shape),
        (1, 1, chunk_rows, chunk_samples, *(max(1, n) for n in loss_shape)),
        dtype,
        np.nan,
        attrs=_NATS,
    )


def _fixed(path: str, dims: tuple[str, ...], data: np.ndarray, dtype: Any = None, **attrs: Any) -> ArraySpec:
    data = np.asarray(data, dtype=dtype)
    fill = np.nan if data.dtype.kind == "f" else -1
    return ArraySpec(path, dims, data.shape, _fixed_chunks(data.shape, data.itemsize), data.dtype, fill, data, attrs)


def _size(loss_shape: Sequence[int]) -> dict[str, int]:
    """Return the attribute that says how many losses a sample has, whatever part of them is selected later."""
    return {NUM_LOSSES: math.prod(loss_shape)}


def _fixed_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the chunks of an array that is written at once: all of it, cut along leading dims where it exceeds 16 MiB."""
    chunks = [max(1, n) for n in shape]
    for axis in range(len(chunks)):
        excess = math.ceil(itemsize * math.prod(chunks) / MAX_CHUNK_BYTES)
        chunks[axis] = max(1, chunks[axis] // excess)
    return tuple(chunks)


def array_specs(layout: RunLayout) -> list[ArraySpec]:
    """Return every array of a run's store.

    Parameters
    ----------
    layout : RunLayout
        The run.

    Returns
    -------
    list of ArraySpec
        Data that are known beforehand are in their specs; losses, metrics and status begin with their fill values.
    """
    pair = (len(layout.restrictions), layout.num_chains)
    lead = (RESTRICTION, CHAIN)
    labels = np.array(list(layout.restrictions), dtype=object)
    specs = [
        ArraySpec(RESTRICTION, (RESTRICTION,), pair[:1], pair[:1], str, "", labels),
        _fixed(CHAIN, (CHAIN,), np.arange(layout.num_chains)),
        _fixed(DRAW, (DRAW,), np.arange(len(layout.draw_steps))),
        _fixed("draw_step", (DRAW,), layout.draw_steps, np.int64),
        _fixed("num_moving", (RESTRICTION,), np.array(list(layout.restrictions.values())), np.int64),
        *_trace_specs(layout),
        *(
            spec
            for name, observable in layout.observables.items()
            for spec in _observable_specs(name, observable, layout)
        ),
    ]
    for name in layout.metrics:
        shape = (*pair, layout.num_steps)
        chunks = (1, 1, min(layout.num_steps, 2**18))
        specs.append(ArraySpec(f"{schema.METRICS}/{name}", (*lead, STEP), shape, chunks, np.float32, np.nan))
    specs += _virial_specs(layout)
    for name, recording in layout.recordings.items():
        specs += _recording_specs(f"{schema.RECORDINGS}/{name}", recording, layout)
    specs += [
        ArraySpec(f"{schema.STATUS}/steps_done", lead, pair, (1, 1), np.int64, 0),
        ArraySpec(f"{schema.STATUS}/state", lead, pair, (1, 1), str, schema.PENDING),
        ArraySpec(f"{schema.STATUS}/error", lead, pair, (1, 1), str, ""),
    ]
    return specs


def _virial_specs(layout: RunLayout) -> list[ArraySpec]:
    """Return the metrics of draws, of all sampled weights and of each parameter tensor."""
    if layout.virial is None:
        return []
    lead, pair = (RESTRICTION, CHAIN, DRAW), (len(layout.restrictions), layout.num_chains, len(layout.draw_steps))
    num_rows, names = min(pair[2], 2**14), list(layout.virial.sizes)
    whole = [schema.VIRIAL, schema.VIRIAL_GRADIENT, schema.VIRIAL_SQUARE]
    parts = [schema.PARAMETER_VIRIAL]
    if layout.observables:
        whole.append(schema.DRAW_SQUARE)
    if layout.virial.in_box:
        whole.append(schema.VIRIAL_VOLUME)
        parts.append(schema.PARAMETER_VOLUME)
    part_rows = max(1, min(num_rows, MIN_CHUNK_BYTES // (4 * len(names))))
    sizes, group = np.stack(list(layout.virial.sizes.values()), 1), schema.METRICS
    labels, along = np.array(names, dtype=object), (schema.PARAMETER,)
    return [
        *(ArraySpec(f"{group}/{name}", lead, pair, (1, 1, num_rows), np.float32, np.nan) for name in whole),
        *(
            ArraySpec(
                f"{group}/{name}",
                (*lead, *along),
                (*pair, len(names)),
                (1, 1, part_rows, len(names)),
                np.float32,
                np.nan,
            )
            for name in parts
        ),
        ArraySpec(f"{group}/{schema.PARAMETER}", along, (len(names),), (len(names),), str, "", labels),
        _fixed(f"{group}/{schema.PARAMETER_SIZE}", (RESTRICTION, *along), sizes, np.int64),
        *_direction_specs(layout.virial.curvatures, lead, pair, num_rows),
    ]


def _direction_specs(
    curvatures: np.ndarray | None, lead: tuple[str, ...], shape: tuple[int, ...], num_rows: int
) -> list[ArraySpec]:
    """Return the metrics of draws along some directions, and second derivatives along them."""
    if curvatures is None:
        return []
    num, group, along = curvatures.shape[1], schema.METRICS, (schema.DIRECTION,)
    chunks = (1, 1, num_rows, num)
    return [
        ArraySpec(f"{group}/{schema.DIRECTION_VIRIAL}", (*lead, *along), (*shape, num), chunks, np.float32, np.nan),
        _fixed(f"{group}/{schema.DIRECTION}", along, np.arange(num), np.int64),
        _fixed(f"{group}/{schema.DIRECTION_CURVATURE}", (RESTRICTION, *along), curvatures, np.float64),
    ]


def _recording_specs(group: str, recording: RecordingLayout, layout: RunLayout) -> list[ArraySpec]:
    """Return what a recorder stores: at draws, at the initial weights, and labels."""
    lead = (len(layout.restrictions), layout.num_chains, len(layout.draw_steps))
    specs = []
    for name, initial in recording.initial.items():
        dims, attrs = tuple(recording.dims[name]), dict(recording.attrs.get(name, {}))
        fill = np.nan if initial.dtype.kind == "f" else schema.NO_INTEGER
        rows = max(1, min(lead[2], 2**14, MIN_CHUNK_BYTES // max(1, initial.nbytes)))
        chunks = (1, 1, rows, *_fixed_chunks(initial.shape, initial.itemsize))
        path, all_dims = f"{group}/{name}", (RESTRICTION, CHAIN, DRAW, *dims)
        specs.append(ArraySpec(path, all_dims, (*lead, *initial.shape), chunks, initial.dtype, fill, attrs=attrs))
        specs.append(_fixed(f"{group}/{schema.AT_START}{name}", dims, initial, **attrs))
    for name, (dims, values) in recording.coords.items():
        if values.dtype.kind in "OU":
            specs.append(ArraySpec(f"{group}/{name}", dims, values.shape, values.shape, str, "", values.astype(object)))
        else:
            specs.append(_fixed(f"{group}/{name}", dims, values))
    return specs


def _trace_specs(layout: RunLayout) -> list[ArraySpec]:
    trace, loss_dims = schema.TRACE, layout.loss_dims
    num_batch = layout.sequence_id.shape[2]
    start = (RESTRICTION, CHAIN)[2 - (layout.init_loss.ndim - len(loss_dims)) :]
    return [
        _fixed(f"{trace}/{STEP}", (STEP,), np.arange(layout.num_steps)),
        *_position_spec(trace, loss_dims, layout.loss_shape),
        _losses(trace, STEP, BATCH, layout, layout.num_steps, num_batch, layout.loss_shape),
        _fixed(f"{trace}/sequence_id", (CHAIN, STEP, BATCH), layout.sequence_id, np.int64),
        _fixed(
            f"{trace}/init_loss",
            (*start, *loss_dims),
            layout.init_loss,
            np.float32,
            units="nats",
            **_size(layout.loss_shape),
        ),
        _fixed(f"{trace}/init_loss_se", (*start, *loss_dims), layout.init_loss_se, np.float32, units="nats"),
        _fixed(f"{trace}/init_loss_mean", start, layout.init_loss_mean, np.float64, units="nats"),
        _fixed(f"{trace}/init_loss_mean_se", start, layout.init_loss_mean_se, np.float32, units="nats"),
        *_w0_specs(layout),
    ]


def _w0_specs(layout: RunLayout) -> list[ArraySpec]:
    """Return what is known of losses at w0 beyond `init_loss`: of single rows, and without the noise of the start."""
    trace, rows = schema.TRACE, layout.rows
    specs = [
        _fixed(f"{trace}/{name}", (CHAIN, *layout.loss_dims)[: values.ndim], values, np.float64, units="nats")
        for name, values in layout.w0_loss.items()
    ]
    if rows is not None:
        dims = (ROW, *layout.loss_dims)[: rows.loss.ndim]
        size = {} if rows.num_rows is None else {"num_rows": rows.num_rows}
        specs.append(_fixed(f"{trace}/row_id", (ROW,), rows.row_id, np.int64, **size))
        specs.append(_fixed(f"{trace}/row_loss", dims, rows.loss, rows.loss.dtype, units="nats"))
        if rows.count is not None:
            specs.append(_fixed(f"{trace}/row_count", (ROW,), rows.count, np.int32))
    return specs


def _observable_specs(name: str, observable: ObservableLayout, layout: RunLayout) -> list[ArraySpec]:
    group, loss_dims = f"{schema.OBSERVABLES}/{name}", layout.loss_dims
    num_sequences, *loss_shape = observable.init_loss.shape
    num_draws = len(layout.draw_steps)
    specs = [
        *_position_spec(group, loss_dims, tuple(loss_shape)),
        _losses(group, DRAW, SEQUENCE, layout, num_draws, num_sequences, tuple(loss_shape)),
        *_moment_specs(group, layout, (num_sequences, *loss_shape)),
        _fixed(
            f"{group}/init_loss",
            (SEQUENCE, *loss_dims),
            observable.init_loss,
            np.float32,
            units="nats",
            **_size(loss_shape),
        ),
        _fixed(f"{group}/sequence_id", (SEQUENCE,), observable.sequence_id, np.int64),
    ]
    if observable.token_ids is not None:
        specs.append(_fixed(f"{group}/token_ids", (SEQUENCE, TOKEN), observable.token_ids, np.int64))
    return specs


def _moment_specs(group: str, layout: RunLayout, shape: tuple[int, ...]) -> list[ArraySpec]:
    if layout.record != "moments":
        return []
    pair = (len(layout.restrictions), layout.num_chains)
    tokens, tasks = (SEQUENCE, *layout.loss_dims), tuple(layout.observables)
    tile = (1, 1, *_fixed_chunks(shape, 4))
    return [
        ArraySpec(
            f"{group}/{schema.TASK}", (schema.TASK,), (len(tasks),), (len(tasks),), str, "", np.array(tasks, object)
        ),
        ArraySpec(
            f"{group}/{schema.LOSS_MEAN}",
            (RESTRICTION, CHAIN, *tokens),
            (*pair, *shape),
            tile,
            np.float32,
            np.nan,
            attrs=_NATS,
        ),
        ArraySpec(
            f"{group}/{schema.LOSS_COMOMENT}",
            (RESTRICTION, CHAIN, schema.TASK, *tokens),
            (*pair, len(tasks), *shape),
            (1, *tile),
            np.float32,
            np.nan,
            attrs={"units": "nats^2"},
        ),
    ]


def _position_spec(group: str, loss_dims: tuple[str, ...], loss_shape: tuple[int, ...]) -> list[ArraySpec]:
    if loss_dims != (POSITION,):
        return []
    # The coordinate is the index of the predicted token: the first is 1.
    return [_fixed(f"{group}/{POSITION}", (POSITION,), np.arange(1, loss_shape[0] + 1))]
