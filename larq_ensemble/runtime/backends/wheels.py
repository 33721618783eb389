"""Where the packages of back ends have wheels, and what to install here."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

_ELSEWHERE = (
    "run the file from C++, as the deployment guide shows, or use another version of Python or "
    "another machine"
)


@dataclass(frozen=True)
class Wheels:
    """The wheels of a package.

    # Arguments
        title: what messages call what the package has.
        requirement: as pip takes it.
        processors: those that it has wheels for, by `platform.system()`, in lower case.
        pythons: the first and the last minor version of Python 3.
        platforms: `processors` in words.
    """

    title: str
    requirement: str
    processors: Mapping[str, tuple[str, ...]]
    pythons: tuple[int, int]
    platforms: str

    @property
    def are_for_this_machine(self) -> bool:
        """Whether a wheel exists for this system and processor."""
        return platform.machine().lower() in self.processors.get(platform.system(), ())

    @property
    def are_here(self) -> bool:
        """Whether a wheel can be installed here."""
        first, last = self.pythons
        return self.are_for_this_machine and (3, first) <= sys.version_info[:2] <= (3, last)

    def advice(self) -> str:
        """How to get the package here; the end of a message."""
        if self.are_here:
            return f'install it with `pip install "{self.requirement}"`'
        first, last = self.pythons
        here = (
            f"Python {sys.version_info[0]}.{sys.version_info[1]}"
            if self.are_for_this_machine
            else f"{platform.system()} on {platform.machine().lower()}"
        )
        return (
            f"it has no wheel for {here}, only for Python 3.{first} to 3.{last} on {self.platforms}"
        )


def advice_without(*all_wheels: Wheels) -> str:
    """The message for a Python that has none of the back ends.

    # Arguments
        *all_wheels: of the back ends, in the order of preference.
    """
    names = " nor ".join(wheels.title for wheels in all_wheels)
    start = f"No runtime is installed, neither {names}"
    for wheels in all_wheels:
        if wheels.are_here:
            return f'{start}: install {wheels.title} with `pip install "{wheels.requirement}"`.'
    reasons = "; ".join(f"{wheels.title}: {wheels.advice()}" for wheels in all_wheels)
    return f"{start}, and none can be ({reasons}): {_ELSEWHERE}."
