"""Errors that users can cause. Each message is one line: what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class EnsembleError(ValueError):
    """Input that can't be used. The message names the argument, the value and the way out.

    Arguments are named as in Python, in backticks. The command line prints the message as one line
    on stderr, with its options in place of the arguments, and exits with 1.
    """


class UnknownNameError(EnsembleError):
    """A name that is in no registry.

    # Arguments
        argument: the argument that takes the name, such as `"model"`.
        value: the name received.
        known: the names that exist.
    """

    def __init__(self, argument: str, value: object, known: Iterable[str]) -> None:
        super().__init__(f"Unknown {argument} {value!r}. Known: {', '.join(sorted(known))}.")


def install_command(extra: str) -> str:
    """How to install the packages of one of the extras, for the end of a message.

    No index has larq-ensemble yet, so this is the command for a checkout.

    # Arguments
        extra: `"calibrate"`, `"convert"` or `"train"`.
    """
    return f"in larq-ensemble's checkout, `pip install -c constraints.txt '.[{extra}]'`"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
