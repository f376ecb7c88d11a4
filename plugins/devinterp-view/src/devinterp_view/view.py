"""``devinterp view STORE``: the viewer on this machine, until it is stopped."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from typing import Annotated

import uvicorn
import xarray as xr
from cyclopts import Parameter
from rich.console import Console

from devinterp.cli.analysis import GROUP, STORE
from devinterp.errors import InvalidInputError, StoreError
from devinterp_view.budget import Limits
from devinterp_view.recorded import tokenizer_of
from devinterp_view.server.app import make_app
from devinterp_view.server.opened import Library, StoreGoneError
from devinterp_view.server.viewer import Viewer

#: The only interface on which the viewer answers.
_HOST = "127.0.0.1"
_MODEL = Annotated[
    str | None,
    Parameter(
        name=["--model", "--tokenizer"],
        help="Show tokens as the text of this model's: `smollm2`, a directory, or a model on the HuggingFace hub; without it "
        "token ids are shown, but for a run of the bundled model.",
    ),
]
_TASK = Annotated[
    str | None,
    Parameter(help="The observable made of the data that runs were sampled on, for susceptibilities."),
]


def view(
    store: STORE,
    /,
    *,
    group: GROUP = None,
    model: _MODEL = None,
    sampling_task: _TASK = None,
    top_k: Annotated[int, Parameter(help="Strongest positive and negative influences of each token.")] = 10,
    port: Annotated[int, Parameter(help="Port to answer on; 0 for any that is free.")] = 0,
    no_browser: Annotated[bool, Parameter(help="Print the address only.", negative="")] = False,
) -> None:
    """Show a store in the browser: every sequence of every observable, what moves with any token in all data, every run.

    Only this machine can reach it, and only with the address that is printed. Nothing is written to the store. It follows a
    run that is going on. Ctrl-C ends it.
    """
    if not 0 <= port <= 65535:
        raise InvalidInputError(f"`port` (={port}) must be 0 to 65535.")
    library = Library(store, group)
    try:
        paths = list(library.table().runs)
    except StoreGoneError:
        raise StoreError(
            f"there is no store at {library.name}: expected the `output_path` of `devinterp.sample`."
        ) from None
    begun = next((path for path in paths if library.state(path)["has_begun"]), None)
    tree = xr.DataTree() if begun is None else library.open(begun).subject.run
    tokenizer, note = tokenizer_of(tree, model, option="--model")
    viewer = Viewer(library, tokenizer, note, sampling_task, Limits(top_k=top_k))
    token = secrets.token_urlsafe(32)
    with listening(port) as listener:
        address = f"http://{_HOST}:{listener.getsockname()[1]}/{token}/"
        Console().print(f"{address}\nCtrl-C ends it.", highlight=False, markup=False, soft_wrap=True)
        if not no_browser:
            webbrowser.open(address)
        config = uvicorn.Config(
            make_app(viewer, token),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listener])


def listening(port: int) -> socket.socket:
    """Return a socket that listens on this machine only.

    Raises
    ------
    InvalidInputError
        If another program has the port.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen(64)  # the browser may be faster than the server
    except OSError as error:
        listener.close()
        raise InvalidInputError(f"`port` (={port}) cannot be used: {error.strerror}. Choose another, or 0.") from error
    return listener
