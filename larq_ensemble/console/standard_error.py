"""What libraries of C++ write to standard error."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def without_lines(notice: bytes) -> Iterator[None]:
    """Writes what the process wrote to stderr meanwhile after the block, less some lines.

    # Arguments
        notice: what is in these lines.
    """
    with ExitStack() as files:
        try:
            held = files.enter_context(tempfile.TemporaryFile())
            shown = files.enter_context(os.fdopen(os.dup(2), "wb"))
        except OSError:  # stderr is closed, or no folder can be written to
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown.fileno(), 2)
            held.seek(0)
            shown.writelines(line for line in held if notice not in line)
