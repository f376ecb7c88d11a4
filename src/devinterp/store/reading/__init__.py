"""Reading a store: its metadata are validated, then it is opened as a tree.

`validate` refuses metadata that cannot be read safely, by the limits in `array_metadata`; `open` makes a tree of what
passes, and has the function that users know as `devinterp.open`; `v2` does so for stores of DevInterp 2. `status` says how
far each chain is.
"""

from devinterp.store.reading.status import Status, read_attrs, read_status
from devinterp.store.reading.v2 import is_v2, open_v2, to_v2
from devinterp.store.reading.validate import inspect

__all__ = ["Status", "inspect", "is_v2", "open_v2", "read_attrs", "read_status", "to_v2"]
