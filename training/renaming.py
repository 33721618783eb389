"""Arguments that had other names in earlier versions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def formerly(**new_names: str) -> Callable[[Function], Function]:
    """A decorator that also takes keyword arguments by their former names.

    # Arguments
        new_names: the name of today by that of before.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in new_names.keys() & kwargs.keys():
                kwargs[new_names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate
