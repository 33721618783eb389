"""Back ends: what runs the graphs of a file, LiteRT or Larq Compute Engine (LCE).

A back end opens one graph and runs it on arrays. What they share, such as layouts, threads and
forks, is in `larq_ensemble.runtime.members`. This module has the names only and imports nothing, so
that a command's help is quick.
"""

from __future__ import annotations

#: In the order of preference.
BACKENDS = ("litert", "lce")
#: Back end -> its kernels of binary convolutions; where two are as fast, the first is taken.
KERNELS = {"litert": ("delegate", "builtin"), "lce": ("indirect", "default")}
