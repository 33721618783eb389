"""Entries by name; an unknown name is an error that lists the known ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from larq_ensemble.errors import EnsembleError, UnknownNameError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name.

    # Arguments
        argument: the name of an entry in errors, such as `"model"`.
    """

    def __init__(self, argument: str) -> None:
        self._argument = argument
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> Entry:
        """Adds `entry` under `name` and returns it.

        # Raises
            EnsembleError: if the name is taken.
        """
        if name in self._entries:
            raise EnsembleError(f"The {self._argument} {name!r} is registered already.")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownNameError(self._argument, name, self._entries) from None

    def items(self) -> Iterator[tuple[str, Entry]]:
        return iter(self._entries.items())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
