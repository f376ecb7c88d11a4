"""``devinterp view STORE``: the pages of a report over HTTP, for what a file cannot hold.

A request passes the modules in this order: `guard` (only whoever has the address may ask, and only read), `app` (which page or
answer), `opened` (the store, opened again when it changes), `jobs` and `cache` (numbers are computed in threads, with progress,
and kept), then `run_page` and `run_list` (pages), `answers` (numbers of tokens) or `search` (text). `paging` counts pages.
"""

from devinterp_view.server.app import make_app

__all__ = ["make_app"]
