"""What tests read of a report: its cells, the text of its sections, its data and its tags."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser

import numpy as np


class Page(HTMLParser):
    """What the tests read of a page: cells by table, the text of sections, the data, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: dict[str, list[list[str | None]]] = {}
        self.texts: dict[str, str] = {}
        self.scripts: list[str] = []
        self._stack: list[tuple[str, str | None]] = []
        self._table: str | None = None
        self.feed(html)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag not in ("meta", "input", "br"):
            self._stack.append((tag, values.get("id")))
        if tag == "script":
            self.scripts.append("")
        if tag == "table":
            self._table = values.get("id")
        if self._table and tag == "tr":
            self.cells.setdefault(self._table, []).append([])
        if self._table and tag in ("td", "th") and "data-value" in values:
            self.cells[self._table][-1].append(values["data-value"])

    def handle_endtag(self, tag):
        while self._stack and self._stack.pop()[0] != tag:
            pass

    def handle_data(self, text):
        if self._stack and self._stack[-1][0] == "script":
            self.scripts[-1] += text
        for _, identifier in self._stack:
            if identifier:
                self.texts[identifier] = self.texts.get(identifier, "") + text


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def integers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<i4")
