"""``devinterp view STORE``: the pages of a report over HTTP, for what a file cannot hold.

A request passes the modules in this order: `guard` (only whoever has the address may ask, and only read), `app` (which page or
answer), `query` (what is asked for), `opened` (the store, opened again when it changes), then for pages `run_page` and
`run_list`, and for numbers `streams`: they are computed in threads (`jobs`), with progress (`devinterp_view.job`), and kept
(`cache`), by `answers` (numbers of tokens) and `search` (text). `places` and `paging` say what stands where; `viewer` is what
all requests share.
"""

from devinterp_view.server.app import make_app

__all__ = ["make_app"]
