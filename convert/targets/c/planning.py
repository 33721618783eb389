"""From the file of an ensemble to the plan of its C program."""

from __future__ import annotations

from collections.abc import Sequence

from larq_ensemble.convert.targets.c import arena
from larq_ensemble.convert.targets.c.fusion import absorb_slices, fuse
from larq_ensemble.convert.targets.c.lowering import Lowering
from larq_ensemble.convert.targets.c.members import MemberGraph
from larq_ensemble.convert.targets.c.operators import PATTERNS
from larq_ensemble.convert.targets.c.plan import Map, Plan, Step
from larq_ensemble.convert.targets.c.scheduling import scheduled
from larq_ensemble.convert.targets.c.scratch import scratch_bytes
from larq_ensemble.convert.targets.c.thresholds import with_thresholds
from larq_ensemble.convert.targets.c.vectors import unpack
from larq_ensemble.errors import UnknownNameError
from larq_ensemble.runtime.file import EnsembleFile

#: Number formats of maps of floats.
ACTIVATIONS = ("float32", "float16")


def plan_ensemble(
    file: EnsembleFile,
    *,
    activations: str = "float32",
) -> Plan:
    """The plan of the C program that runs a file.

    What doesn't depend on the image is computed now; what doesn't depend on the member becomes
    steps of `begin`. With one member all of it does.

    # Arguments
        file: for LCE, in the layout `"indexed"` or `"subgraphs"`.
        activations: the number format of maps of floats, one of `ACTIVATIONS`. `"float16"` takes
            half the RAM. Vectors and the logits stay float32.

    # Raises
        UnknownNameError: for other `activations`.
        EnsembleError: for a file in another form, or an operator that isn't supported, with its
            name and place.
    """
    if activations not in ACTIVATIONS:
        raise UnknownNameError("activations", activations, ACTIVATIONS)
    graph = MemberGraph(file)
    lowering = Lowering(graph, file.metadata.input_shape)
    logits = lowering.run(PATTERNS)
    steps = fuse(absorb_slices(lowering.steps), logits)
    steps = with_thresholds(steps, lowering.values)
    if activations == "float16":
        _halve(steps, logits)

    def placed(order: list[Step]) -> Plan:
        order = unpack(order, lowering.values.terms)
        order.sort(key=lambda step: not step.shared)  # stable: those of `begin` come first
        plan = Plan(graph.members, lowering.image, logits, order)
        arena.place(plan, scratch_bytes)
        return plan

    orders = [steps, scheduled(steps, logits)]
    smallest = min(orders, key=lambda order: placed(order).arena_bytes)
    return placed(smallest)


def _halve(steps: Sequence[Step], logits: Map) -> None:
    """Lets maps of floats be half floats."""
    for map in {map for step in steps for map in step.writes}:
        if map.format == "float32" and map.height * map.width > 1 and map is not logits:
            map.format = "float16"
