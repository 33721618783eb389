"""What becomes of a converted graph, step by step.

`PIPELINE` is the one place where the order of the passes stands. It starts from what LCE's
converter makes of the member-indexed network: one graph, in which a member's own values are rows of
tables that GATHER reads by the input `member`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from larq_ensemble.convert.ir.graph import Module
from larq_ensemble.convert.passes import (
    bit_packed_convolutions,
    constant_deduplication,
    constant_lookups,
    dead_code,
    debug_info,
    float16_constants,
    layout_choice,
    long_rows,
    member_branches,
    member_subgraphs,
    offset_merging,
    prelu_fusion,
    scale_folding,
    shared_trunk,
    sign_packing,
)
from larq_ensemble.runtime.metadata import LAYOUTS

#: Changes a module in place; returns how often it applied, by what it did.
Pass = Callable[[Module], Counter[str]]


@dataclass(frozen=True)
class Step:
    """A pass, and the layouts that it is for."""

    run: Pass
    layouts: tuple[str, ...] = LAYOUTS

    def __call__(self, module: Module) -> Counter[str]:
        """Runs the pass if it is for the module's layout."""
        if module.layout not in (*self.layouts, "auto"):
            return Counter()
        counts = self.run(module)
        module.update_operator_codes()
        return counts


#: Layouts in which a member's values are constants.
_CONSTANTS = ("subgraphs", "branches")

PIPELINE: tuple[Step, ...] = (
    # Undo what the front end spelled out for LCE's converter, and store values compactly.
    Step(constant_lookups.run),
    Step(prelu_fusion.run),
    Step(sign_packing.run),
    Step(float16_constants.run),
    Step(dead_code.run),
    Step(debug_info.run),
    # From here on it matters how the members will lie in the file.
    Step(layout_choice.run),
    # Compute the same with fewer instructions.
    Step(bit_packed_convolutions.run, _CONSTANTS),
    Step(scale_folding.run, _CONSTANTS),
    Step(offset_merging.run),
    Step(long_rows.run),
    Step(dead_code.run),
    # Lay the members out, and what they share.
    Step(member_subgraphs.run, ("subgraphs",)),
    Step(member_branches.run, ("branches",)),
    Step(shared_trunk.run, ("indexed", "subgraphs")),
    Step(constant_deduplication.run),
)

#: What the passes do to compute with fewer instructions; the file's metadata say how often.
REWRITES = ("folded_scales", "folded_offsets", "merged_offsets", "long_rows", "narrow_signs")


def run_pipeline(module: Module) -> Counter[str]:
    """Runs the passes that the module's layout asks for, in place.

    # Arguments
        module: as the front end gives it: one member-indexed graph, the number of members, and the
            layout, which may be `"auto"`.

    # Returns
        How often each pass applied in the graph of a member, by the names that the passes give.

    # Raises
        EnsembleError: if the member's number is used for more than to look rows up, and the layout
            is not `"indexed"`.
    """
    counts: Counter[str] = Counter()
    for step in PIPELINE:
        counts.update(step(module))
    return counts
