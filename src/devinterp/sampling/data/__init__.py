"""The rows of data sets as tensors, and which of them are used at which step.

What a data set may be is decided in `datasets` (columns in `tables`, single rows in `items`, DataLoaders in `loaders`); its
values become stacked `columns`, kept as `rows` where `placement` says; `tokens` are the token ids among them; `schedule` says
which rows are used at which step.
"""

from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.data.rows import Minibatch, Rows
from devinterp.sampling.data.schedule import Schedule
from devinterp.sampling.data.source import RowSource

__all__ = ["Minibatch", "RowSource", "Rows", "Schedule", "row_source"]
