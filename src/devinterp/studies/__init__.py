"""Studies: runs that differ in named ways, in one store.

`study` is the way in. `axes` says what varies, `model_sources` where models come from (`patterns`, `files`), `arguments` what
each run is sampled with, and `plan` puts the runs together, checked. `driver` makes those that the store lacks, one model at a
time (`loading`); `requests` knows which it has, and `run_one` makes one. `cost` says what all would cost. `plan_file` reads a
study from a file. `recorder` samples in a training loop (`schedules` says when, `trainer_callback` is for transformers).
"""

from devinterp.studies.cost import StudyCost
from devinterp.studies.recorder import TrainingRecorder
from devinterp.studies.schedules import evenly_spaced, log_spaced, union
from devinterp.studies.study import study

__all__ = ["StudyCost", "TrainingRecorder", "evenly_spaced", "log_spaced", "study", "union"]
