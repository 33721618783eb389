"""The order of the passes.

`PIPELINE` starts from what LCE's converter makes of the member-indexed network: one graph, in which
GATHER looks up a member's own values in tables, by the input `member`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from larq_ensemble.convert.passes import (
    binary_dense,
    binary_weights,
    bit_packed_convolutions,
    common_operators,
    constant_deduplication,
    constant_lookups,
    dead_code,
    debug_info,
    equal_rows,
    float16_constants,
    layout_choice,
    long_rows,
    member_branches,
    member_subgraphs,
    offset_merging,
    prelu_fusion,
    scale_folding,
    shared_filters,
    shared_trunk,
    sign_packing,
    strided_slices,
)
from larq_ensemble.ir.graph import Module
from larq_ensemble.legalization import legalize
from larq_ensemble.runtime.metadata import LAYOUTS

#: Edits a module in place and returns how often it applied, by name.
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
    # Undo what the front end spelled out for LCE's converter, and store constants in fewer bytes.
    Step(constant_lookups.run),
    Step(prelu_fusion.run),
    Step(sign_packing.run),
    Step(binary_dense.run),
    Step(binary_weights.run),
    Step(float16_constants.run),
    Step(dead_code.run),
    Step(debug_info.run),
    # What follows depends on the layout.
    Step(layout_choice.run),
    # Save instructions.
    Step(bit_packed_convolutions.run, _CONSTANTS),
    Step(scale_folding.run, _CONSTANTS),
    Step(offset_merging.run),
    Step(strided_slices.run),
    Step(long_rows.run),
    Step(dead_code.run),
    # Arrange the members in the file, and store what they share once.
    Step(member_subgraphs.run, ("subgraphs",)),
    Step(member_branches.run, ("branches",)),
    Step(equal_rows.run, ("indexed",)),
    Step(shared_trunk.run, ("indexed", "subgraphs")),
    Step(constant_deduplication.run),
)

#: What makes the graphs that `larq_ensemble.legalization` leaves small.
AFTER_LEGALIZATION: tuple[Step, ...] = (
    Step(dead_code.run),
    Step(shared_filters.run, ("subgraphs", "branches")),
    # Graphs of members stay alike, because they share the trunk.
    Step(common_operators.run, ("indexed", "branches")),
)

#: The counts of passes that save instructions; the file's metadata hold them.
REWRITES = (
    "folded_scales",
    "folded_offsets",
    "merged_offsets",
    "strided_slices",
    "long_rows",
    "narrow_signs",
    "binary_dense_layers",
)


def run_pipeline(module: Module, *, share_rows: bool = True) -> Counter[str]:
    """Runs the passes that the module's layout asks for, in place.

    # Arguments
        module: as the front end gives it: one member-indexed graph, the number of members, and the
            layout, which may be `"auto"`.
        share_rows: whether `equal_rows` is among them. In an untrained ensemble it would share what
            training makes different, and sizes must not depend on training.

    # Returns
        How often each pass applied in the graph of a member, by the names that the passes give.

    # Raises
        EnsembleError: if the member's number is used for more than to look rows up, and the layout
            is not `"indexed"`.
    """
    counts: Counter[str] = Counter()
    for step in PIPELINE:
        if share_rows or step.run is not equal_rows.run:
            counts.update(step(module))
    return counts


def run_after_cutting(module: Module, *, with_trunk: bool) -> None:
    """Runs the last passes again, for a file that was cut to its first members.

    # Arguments
        module: complete graphs only.
        with_trunk: whether the file had a shared trunk; files of version 1 have none.
    """
    if with_trunk:
        Step(shared_trunk.run)(module)
    Step(constant_deduplication.run)(module)


def run_legalization(module: Module, filters: str) -> None:
    """Replaces LCE's operators in a finished module, and splits off the shared trunk again.

    # Arguments
        module: of a file for LCE.
        filters: one of `larq_ensemble.legalization.FILTERS`.

    # Raises
        EnsembleError: for an operator that no builtin ones stand for.
    """
    complete = shared_trunk.complete_graphs(module)
    parts = [graph for graph in module.graphs if graph not in complete]
    module.graphs = complete
    _legalize(module, filters)
    # Trunk and rest share the operators of the complete graphs, so these are divided once more.
    # Members whose graphs have become different keep the parts that they had.
    if parts and not Step(shared_trunk.run)(module):
        divided = Module(parts, module.members, module.layout)
        _legalize(divided, filters)
        module.graphs += divided.graphs
    Step(constant_deduplication.run)(module)


def _legalize(module: Module, filters: str) -> None:
    legalize(module, filters=filters)
    for step in AFTER_LEGALIZATION:
        step(module)
