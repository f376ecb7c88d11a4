"""The run-time type checker that tests/conftest.py puts around every function of the package."""

from beartype import BeartypeConf, beartype

#: A float is asked for and an int is given: as in static typing, that is fine.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
