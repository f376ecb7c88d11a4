"""The rows of data sets as tensors (`datasets`), and which of them are used at which step (`schedule`)."""

from devinterp.sampling.data.datasets import Rows, num_rows, read_rows
from devinterp.sampling.data.schedule import Schedule

__all__ = ["Rows", "Schedule", "num_rows", "read_rows"]
