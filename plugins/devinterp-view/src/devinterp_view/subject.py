"""The run that a page is about, and which of its chains can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from devinterp import schema
from devinterp.analyses.common.run_data import Chains, restriction_names, under_restrictions, use_chains
from devinterp.errors import BrokenChainsError, InvalidInputError
from devinterp.runs import only
from devinterp.schema import OBSERVABLES, SEQUENCE


@dataclass(frozen=True, slots=True)
class Subject:
    """One run, as the sections of a page read it.

    Parameters
    ----------
    run : xarray.DataTree
        The run.
    chains : {"all", "finished"}
        What analyses are told.
    caveat : str
        Which chains are left out and why; empty if none.
    """

    run: xr.DataTree
    chains: Chains
    caveat: str

    @classmethod
    def of(cls, tree: xr.DataTree, *, needed_by: str = "report") -> Subject:
        """Return the only run at or below a node.

        Parameters
        ----------
        tree : xarray.DataTree
            The node.
        needed_by : str, default: "report"
            What shows it, for messages.

        Raises
        ------
        MissingDataError
            If there is none.
        InvalidInputError
            If there are several.
        """
        runs = schema.runs(tree)
        if len(runs) > 1:
            shown = ", ".join(map(repr, list(runs)[:8])) + (", ..." if len(runs) > 8 else "")
            raise InvalidInputError(
                f"`{needed_by}` shows one sampling run; there are {len(runs)} ({shown}): choose one, as "
                f"tree[{next(iter(runs))!r}], or with `--group` on the command line."
            )
        run = only(tree, name=needed_by)
        try:
            use_chains(run, "all", needed_by=needed_by)
        except BrokenChainsError as error:
            return cls(run, "finished", str(error))
        return cls(run, "all", "")

    @property
    def restrictions(self) -> list[str]:
        """Return the names of the weight restrictions."""
        return restriction_names(self.run)

    @property
    def observables(self) -> list[str]:
        """Return the names of the observables."""
        return schema.observable_names(self.run)

    def num_sequences(self, observable: str) -> int:
        """Return how many sequences an observable has."""
        return int(self.run[f"{OBSERVABLES}/{observable}"].sizes.get(SEQUENCE, 0))

    def restriction_of_influences(self, given: str | None) -> str:
        """Return the weight restriction of influences: the one that is given, ``"full"``, or the first.

        Raises
        ------
        InvalidInputError
            If the run has no such restriction.
        """
        names = self.restrictions
        chosen = given or ("full" if "full" in names else names[0])
        self.under([chosen])
        return chosen

    def restriction_number(self, number: int) -> str:
        """Return the name of the weight restriction of this number.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        names = self.restrictions
        if not 0 <= number < len(names):
            raise InvalidInputError(f"`restriction` (={number}) must be 0 to {len(names) - 1}.")
        return names[number]

    def under(self, restrictions: Sequence[str]) -> xr.DataTree:
        """Return the run under some of its restrictions only.

        Raises
        ------
        InvalidInputError
            If it has no such restriction.
        """
        names = self.restrictions
        for each in restrictions:
            if each not in names:
                raise InvalidInputError(f"restriction: {each!r} is not one of {', '.join(map(repr, names))}.")
        return under_restrictions(self.run, restrictions)


def with_sequences(run: xr.DataTree, sequences: Mapping[str, Sequence[int]], whole: Sequence[str] = ()) -> xr.DataTree:
    """Return a run with these sequences of these observables, and no others, so that nothing else is read.

    Parameters
    ----------
    run : xarray.DataTree
        A run.
    sequences : mapping of str to sequence of int
        By observable.
    whole : sequence of str, optional
        Observables of which all sequences are kept.
    """
    groups = {path: node.to_dataset(inherit=False) for path, node in schema.groups_of(run)}
    for name in schema.observable_names(run):
        path = f"{OBSERVABLES}/{name}"
        if name in whole:
            continue
        if name in sequences:
            groups[path] = groups[path].isel({SEQUENCE: list(sequences[name])}, missing_dims="ignore")
        else:
            del groups[path]
    return xr.DataTree.from_dict({f"/{path}": dataset for path, dataset in groups.items()})
