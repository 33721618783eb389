"""Legalization: Larq Compute Engine's (LCE's) operators as TFLite's builtin ones.

`legalize` rewrites the graphs of a module, `legalized` those of a file's bytes. The result runs on
any TFLite interpreter and has the same outputs.

It is a dialect conversion: `conversion` visits the operators in order, each pattern replaces the
operators of one kind, and `packed` says what becomes of a tensor of bit-packed words, a float
tensor that has the same signs. [Architecture](../../docs/architecture.md#legalization) has the
table of what becomes what.
"""

from larq_ensemble.legalization.legalizing import legalize, legalized
from larq_ensemble.legalization.weights import FILTERS

__all__ = ["FILTERS", "legalize", "legalized"]
