"""Which page a sequence of an observable, or a part of it, stands on."""

from __future__ import annotations

from dataclasses import dataclass

#: Tokens of a page.
PAGE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Paging:
    """How an observable is cut into pages: of several sequences each, or of a part of one where sequences are long.

    Parameters
    ----------
    num_sequences : int
        Sequences of the observable.
    num_tokens : int
        Tokens of each, at least 1.
    page_tokens : int
        Most tokens of a page.
    """

    num_sequences: int
    num_tokens: int
    page_tokens: int

    @property
    def num_parts(self) -> int:
        """Return how many pages a sequence takes."""
        return -(-self.num_tokens // self.page_tokens)

    @property
    def per_page(self) -> int:
        """Return how many sequences stand on a page."""
        return max(1, self.page_tokens // self.num_tokens)

    @property
    def num_pages(self) -> int:
        """Return how many pages there are."""
        if self.num_parts > 1:
            return self.num_sequences * self.num_parts
        return -(-self.num_sequences // self.per_page)

    def page_of(self, sequence: int, token: int) -> int:
        """Return on which page, counted from 0, a token of a sequence stands."""
        if self.num_parts > 1:
            return sequence * self.num_parts + token // self.page_tokens
        return sequence // self.per_page

    def on_page(self, page: int) -> list[tuple[int, slice]]:
        """Return the sequences of a page, and which of their tokens."""
        if self.num_parts > 1:
            sequence, part = divmod(page, self.num_parts)
            start = part * self.page_tokens
            return [(sequence, slice(start, min(start + self.page_tokens, self.num_tokens)))]
        first = page * self.per_page
        return [
            (sequence, slice(0, self.num_tokens))
            for sequence in range(first, min(first + self.per_page, self.num_sequences))
        ]
