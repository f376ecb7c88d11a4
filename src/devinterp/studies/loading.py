"""Models of a study loaded one after the other, the next one while the present one is sampled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn

from devinterp.sampling.model_guard import own_randomness
from devinterp.studies.axes import Point
from devinterp.studies.model_sources import ModelSource

#: Seeds torch's global generator while a model is loaded: it must not matter what was done before.
_SEED = 0


@final
class ModelLoader:
    """Loads the models of a study when their turn comes, and holds no more than the present one and the next.

    A model is loaded ahead only while nothing else draws from torch's global generator: another's dropout would otherwise
    depend on when it is loaded.

    Parameters
    ----------
    source : ModelSource
        Where they come from.
    """

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._key: Any = None
        self._model: nn.Module | None = None
        self._ahead: tuple[Any, Future[nn.Module]] | None = None

    def get(self, point: Point) -> nn.Module:
        """Return the model of a point.

        Raises
        ------
        Exception
            What loading it raised.
        """
        key = self._source.key(point)
        if self._model is None or key != self._key:
            self._model = None  # released before the next one is there
            ahead, self._ahead = self._ahead, None
            if ahead is not None and ahead[0] == key:
                self._model = ahead[1].result()
            else:
                with own_randomness(_SEED, cuda=torch.cuda.is_available()):
                    self._model = self._source.load(point)
            self._key = key
        return self._model

    def apart(self, model: nn.Module) -> nn.Module | None:
        """Return the model as one that loading another cannot change, where that is possible; else None.

        A function of the user's may load every checkpoint into the same module.
        """
        if not self._source.is_function:
            return model
        try:
            return copy.deepcopy(model)
        except Exception:  # whatever its parts raise: then nothing is loaded ahead
            return None

    @contextmanager
    def ahead(self, following: Point | None) -> Iterator[None]:
        """Load the model of a point while the block runs, if it is another than the present one.

        The block must not draw from torch's global generator, and its state is put back by the caller.
        """
        if following is None or self._source.key(following) == self._key:
            yield
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="devinterp-load")
        future = pool.submit(_load, self._source.load, following)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception):  # the process is to end: not when everything is loaded, but now
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            self._keep(following, future)
            raise
        self._keep(following, future)

    def _keep(self, point: Point, future: Future[nn.Module]) -> None:
        """Wait until a model is loaded, so that loading never meets what comes after, and keep it for its turn."""
        future.exception()
        self._ahead = (self._source.key(point), future)


def _load(load: Callable[[Point], nn.Module], point: Point) -> nn.Module:
    torch.default_generator.manual_seed(_SEED)
    return load(point)


def may_load_ahead(model: nn.Module, has_loss_fn: bool) -> bool:
    """Say whether sampling a model leaves torch's global generator alone."""
    return not has_loss_fn and not any(module.training for module in model.modules())
