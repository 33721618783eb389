"""The errors that a user can cause, each one line that says what was wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class EnsembleError(ValueError):
    """A user's input can't be used: names the argument, the value received and the way out.

    The command line prints the message as one line on stderr and exits with 1.
    """


class UnknownNameError(EnsembleError):
    """A name that is in no registry.

    # Arguments
        argument: what was named, for example `"model"`.
        value: the name received.
        known: the names there are.
    """

    def __init__(self, argument: str, value: object, known: Iterable[str]) -> None:
        super().__init__(f"Unknown {argument} {value!r}. Known: {', '.join(sorted(known))}.")
