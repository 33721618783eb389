"""Legalization: Larq Compute Engine's (LCE's) operators as TFLite's builtin ones.

`legalize` rewrites the graphs of a module, `legalized` those of a file's bytes. The result runs on
any TFLite interpreter and has the same outputs.

It is a dialect conversion: `conversion` visits the operators in order, each pattern replaces the
operators of one kind, and `packed` says what becomes of a tensor of bit-packed words, a float
tensor that has the same signs. [Architecture](../../docs/architecture.md#legalization) has the
table of what becomes what.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from larq_ensemble.legalization.legalizing import legalize as legalize
    from larq_ensemble.legalization.legalizing import legalized as legalized

__all__ = ["FILTERS", "legalize", "legalized"]

#: How filters of binary convolutions can be stored.
FILTERS = ("int8", "1bit")


def __getattr__(name: str) -> Any:
    """Imports the passes when they are used: metadata and a command's help need the names only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.legalizing"), name)
