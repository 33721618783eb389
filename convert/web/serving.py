"""Serves a page on this machine."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
from collections.abc import Iterator
from typing import Any

from larq_ensemble.errors import EnsembleError


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each request."""

    # Windows takes some of these from its registry, where they may be wrong.
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(folder: str | os.PathLike[str], port: int) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of a folder for this machine; Ctrl-C ends the block.

    # Arguments
        folder: the page.
        port: of the address `http://localhost:PORT/`; 0: one that is free.

    # Raises
        EnsembleError: if the port can't be had.
    """
    handler = functools.partial(_Handler, directory=os.fspath(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise EnsembleError(
            f"`serve` can't have the port {port} ({error.strerror}): give another."
        ) from error
    with server, contextlib.suppress(KeyboardInterrupt):
        yield server
