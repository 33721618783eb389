"""Merges per-channel offsets, or adds them to a convolution's bias.

    (x + o) + (y + p)  becomes  (x + y) + (o + p)
    conv(x) + o        becomes  conv(x) with the bias b + o

An offset moves down the graph through sums and means, until another operator reads the result. The
offsets that have met by then are added at once. An LceBconv2d reads its bias only at its first run,
so it takes offsets only in layouts with one graph per member.

Left alone: sums with a fused activation, and the whole graph if moving the offsets saves no
additions.

Not bit-exact: floats are summed in another order.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from larq_ensemble.convert.passes.weights import combination, has_multiplier, map_and_vector
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.schema import options

Vectors = tuple[Tensor, ...]


def run(module: Module) -> Counter[str]:
    """Counts the offsets that are gone: `folded_offsets` into biases, and `merged_offsets`."""
    return _Offsets(module.graph, into_biases=module.layout != "indexed").run()


class _Offsets:
    """Visits each operator once; the result is kept only if it saves additions.

    # Arguments
        graph: of one member, or member-indexed.
        into_biases: whether convolutions may take offsets.
    """

    def __init__(self, graph: Graph, *, into_biases: bool) -> None:
        self._graph = graph
        self._into_biases = into_biases
        self._of_image = graph.of_image()
        #: How often each tensor is read, updated for the new operators.
        self._uses = Counter({tensor: graph.uses(tensor) for tensor in graph.tensors})
        #: The new operators, and the producers among them.
        self._operators: list[Operator] = []
        self._producers: dict[Tensor, Operator] = {}
        #: Tensor -> the tensor without its offsets, and the pending offsets.
        self._pending: dict[Tensor, tuple[Tensor, Vectors]] = {}
        #: Old tensor -> the tensor that replaces it.
        self._replaced: dict[Tensor, Tensor] = {}
        #: Vectors -> their sum, and the operators that compute the sums.
        self._sums: dict[Vectors, Tensor] = {}
        self._helpers: list[Operator] = []
        #: Vectors for the biases of convolutions.
        self._biases: dict[Operator, list[Tensor]] = {}
        self._folded = 0

    def run(self) -> Counter[str]:
        before = self._sums_with_vectors(self._graph.operators)
        for op in self._graph.operators:
            self._visit(op)
        for tensor in self._graph.outputs:
            self._add_pending(tensor)
        after = self._sums_with_vectors(self._operators)
        if _additions(after) >= _additions(before):
            return Counter()
        for convolution, vectors in self._biases.items():
            x, filters, multiplier, bias, *rest = convolution.inputs
            assert bias is not None  # `has_multiplier`
            for vector in vectors:
                bias = self._sum(vector, bias)
            convolution.inputs = (x, filters, multiplier, bias, *rest)
        self._graph.rebuild(self._operators, self._helpers)
        merged = len(before) - len(after) - self._folded
        return Counter(folded_offsets=self._folded, merged_offsets=merged)

    def _sums_with_vectors(self, operators: Sequence[Operator]) -> list[Operator]:
        return [op for op in operators if map_and_vector(op, "ADD", self._of_image)]

    def _visit(self, op: Operator) -> None:
        """Adds what replaces an operator to the new operators."""
        with_vector = map_and_vector(op, "ADD", self._of_image)
        if with_vector:
            self._take(op.outputs[0], *with_vector)
            return
        waiting = [self._pending.get(tensor, (tensor, ())) for tensor in op.operands]
        vectors = tuple(vector for _, several in waiting for vector in several)
        if vectors and _lets_offsets_pass(op):
            self._move_behind(op, [base for base, _ in waiting], vectors)
            return
        for tensor in op.operands:
            self._add_pending(tensor)
        inputs = tuple(None if t is None else self._replaced.get(t, t) for t in op.inputs)
        self._emit(dataclasses.replace(op, inputs=inputs))

    def _take(self, output: Tensor, x: Tensor, vector: Tensor) -> None:
        """Replaces the sum of a map and an offset by the map with a pending offset."""
        base, vectors = self._pending.get(x, (x, ()))
        if output not in self._graph.outputs and self._fold(base, (vector,)):
            self._folded += 1
        else:
            vectors = (*vectors, vector)
        self._pending[output] = base, vectors
        self._uses[base] += self._uses[output] - 1

    def _move_behind(self, op: Operator, bases: Sequence[Tensor], vectors: Vectors) -> None:
        """Moves the pending offsets of an operator's inputs behind the operator."""
        (output,) = op.outputs
        base = self._graph.add_like(output)
        self._of_image.add(base)
        self._uses[base] = self._uses[output]
        self._emit(dataclasses.replace(op, inputs=tuple(bases), outputs=(base,)))
        if (
            op.name == "ADD"
            and output not in self._graph.outputs
            and any(self._fold(tensor, vectors) for tensor in bases)
        ):
            self._folded += len(vectors)
            vectors = ()
        self._pending[output] = base, vectors

    def _fold(self, tensor: Tensor, vectors: Vectors) -> bool:
        """Adds vectors to the bias of a convolution that contributes to a tensor, if possible.

        It is possible if nothing else reads the value without the vectors.
        """
        op = self._producers.get(tensor)
        if not self._into_biases or op is None or self._uses[tensor] != 1:
            return False
        if has_multiplier(op):
            self._biases.setdefault(op, []).extend(vectors)
            return True
        return (
            op.name == "ADD"
            and _lets_offsets_pass(op)
            and any(self._fold(operand, vectors) for operand in op.operands)
        )

    def _add_pending(self, tensor: Tensor) -> None:
        """Adds a tensor's pending offsets, because its value is read now."""
        base, vectors = self._pending.get(tensor, (tensor, ()))
        if not vectors:
            self._replaced[tensor] = base
            return
        self._pending[tensor] = tensor, ()
        total = vectors[0]
        for count in range(2, len(vectors) + 1):
            key = vectors[:count]
            if key not in self._sums:
                self._sums[key] = self._sum(total, key[-1])
            total = self._sums[key]
        plain = options("AddOptions", fusedActivationFunction=0)
        self._emit(Operator("ADD", (base, total), (tensor,), plain))

    def _sum(self, one: Tensor, other: Tensor) -> Tensor:
        """The sum of two vectors."""
        helper = combination(self._graph, "ADD", one, other)
        self._helpers.append(helper)
        return helper.outputs[0]

    def _emit(self, op: Operator) -> None:
        self._producers.update(dict.fromkeys(op.outputs, op))
        self._operators.append(op)


def _additions(operators: Sequence[Operator]) -> int:
    return sum(op.outputs[0].size for op in operators)


def _lets_offsets_pass(op: Operator) -> bool:
    """Whether a per-channel offset of its inputs is the same offset of its output."""
    if op.name == "ADD":
        one, other = op.operands
        return not op.activation and one.shape == other.shape
    if op.name == "AVERAGE_POOL_2D":
        return not op.activation
    return (
        op.name == "MEAN"
        and len(op.operands[0].shape) == 4
        and _are_height_and_width(op.operands[1])
    )


def _are_height_and_width(axes: Tensor) -> bool:
    return axes.data is not None and axes.values.tolist() == [1, 2]
