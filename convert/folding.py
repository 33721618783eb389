"""Scales and offsets of members' own computed where they cost least.

**Into convolutions.** A graph of one member (the layouts `"subgraphs"` and `"branches"`) can hand a
value a channel to an LceBconv2d as its multiplier or bias, which the convolution computes anyway;
the filters stay shared:

    s * conv(x)        -> conv(x) with the multiplier m * s
    s * prelu(conv(x)) -> prelu(conv(x)) with the multiplier m * s, for s > 0
    conv(x) + o        -> conv(x) with the bias b + o

In the layout `"indexed"` that is impossible: LceBconv2d reads both at its first run only.

**Together.** An offset waits until something other than a sum or a mean reads it, and what has met
by then is added at once:

    (x + o) + (y + p) -> (x + y) + (o + p)

Sums of floats are rounded in another order then, nothing else changes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from larq_ensemble.convert.editing import Editor
from larq_ensemble.convert.flatbuffer import content, schema, write_model
from larq_ensemble.convert.packing import drop_unread
from larq_ensemble.runtime.lce import load_extension


def fold_scales(model: Any, members: int) -> dict[str, int]:
    """Multiplies LceBconv2d's multipliers by what their outputs are multiplied by, in place.

    # Arguments
        model: a `ModelT` with one subgraph, which one member only will run.
        members: how many rows its tables have.

    # Returns
        How many products a map has gone (`"folded_scales"`).
    """
    return _Scales(model, members).run()


def merge_offsets(model: Any, *, into_convolutions: bool) -> dict[str, int]:
    """Adds offsets together and, in the graph of one member, to biases, in place.

    # Returns
        How many sums with a value a channel have gone, into convolutions (`"folded_offsets"`) or
        into others (`"merged_offsets"`).
    """
    return _Offsets(model, into_convolutions).run()


class _Folding(Editor):
    """What reads and makes the values of maps."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._of_image = self.of_image()
        self._reads = self.readers()
        self._weights: list[Any] = []

    def map_and_row(self, op: Any, name: str) -> tuple[int, int] | None:
        """What the operator `name` adds or multiplies: a map, and a vector of its channels."""
        if self.name(op) != name or op.builtinOptions.fusedActivationFunction:
            return None
        for x, row in (op.inputs.tolist(), op.inputs.tolist()[::-1]):
            if (
                x in self._of_image
                and row not in self._of_image
                and self.shape(row) == self.shape(x)[-1:]
            ):
                return x, row
        return None

    def combined(self, name: str, one: int, other: int) -> int:
        """The vector that an ADD or a MUL makes of two."""
        options = getattr(schema(), f"{name.capitalize()}OptionsT")()
        options.fusedActivationFunction = 0
        result = self.like(one)
        self._weights.append(self.operator(name, [one, other], result, options))
        return result

    def is_float_convolution(self, op: Any) -> bool:
        """Whether it is an LceBconv2d with a multiplier and a bias."""
        return self.name(op) == "LceBconv2d" and int(op.inputs[2]) >= 0

    def with_vectors(self, operators: Sequence[Any]) -> list[Any]:
        """The operators with those that make vectors, each after what makes its inputs."""
        makers = {int(output): op for op in self._weights for output in op.outputs}
        makers.update((int(output), op) for op in operators for output in op.outputs)
        placed: set[int] = set()
        ordered = []

        def place(op: Any) -> None:
            if id(op) in placed:
                return
            placed.add(id(op))
            for index in op.inputs.tolist():
                if index in makers:
                    place(makers[index])
            ordered.append(op)

        for op in operators:
            place(op)
        return ordered


class _Scales(_Folding):
    def __init__(self, model: Any, members: int) -> None:
        super().__init__(model)
        self._members = members

    def run(self) -> dict[str, int]:
        readers: dict[int, list[Any]] = {}
        for op in self.graph.operators:
            for index in op.inputs.tolist():
                readers.setdefault(index, []).append(op)
        # Convolution, PReLU between if any, product, what that multiplies: a map and a vector.
        found: list[tuple[Any, Any, Any, int, int]] = []
        for convolution in self.graph.operators:
            if not self.is_float_convolution(convolution):
                continue
            prelu: Any = None
            tensor = int(convolution.outputs[0])
            # Read once, and not by the graph's output.
            while self._reads[tensor] == 1 and (following := readers.get(tensor)):
                (op,) = following
                scaled = self.map_and_row(op, "MUL")
                if scaled and int(op.outputs[0]) not in self.graph.outputs:
                    found.append((convolution, prelu, op, *scaled))
                elif prelu is None and self.name(op) == "PRELU" and op.inputs[0] == tensor:
                    prelu = op
                else:
                    break
                tensor = int(op.outputs[0])
        behind_prelu = [row for _, prelu, _, _, row in found if prelu is not None]
        positive = dict(zip(behind_prelu, self._are_positive(behind_prelu), strict=True))
        gone: dict[int, int] = {}
        for convolution, prelu, product, before, row in found:
            if prelu is not None and not positive[row]:
                continue
            x, filters, multiplier, bias, *rest = convolution.inputs.tolist()
            multiplier = self.combined("MUL", multiplier, row)
            values = content(self.model, self.graph.tensors[bias])
            if values is None or values.any():
                bias = self.combined("MUL", bias, row)
            convolution.inputs = np.array([x, filters, multiplier, bias, *rest], np.int32)
            gone[int(product.outputs[0])] = before
            self.graph.operators.remove(product)
        for op in self.graph.operators:
            op.inputs = np.array([_first(gone, index) for index in op.inputs.tolist()], np.int32)
        self.graph.operators = self.with_vectors(self.graph.operators)
        return {"folded_scales": len(gone)} if gone else {}

    def _are_positive(self, rows: Sequence[int]) -> list[bool]:
        """Whether vectors that are looked up hold nothing but positive numbers for any member."""
        if not rows:
            return []
        (signature,) = self.model.signatureDefs
        (number,) = (entry.tensorIndex for entry in signature.inputs if entry.name == b"member")
        probe = copy.deepcopy(self.model)
        probe.signatureDefs = None
        probe.subgraphs[0].inputs = np.array([number], np.int32)
        probe.subgraphs[0].outputs = np.array(rows, np.int32)
        drop_unread(probe)
        interpreter = load_extension().LiteInterpreter(write_model(probe), 1, False, False, False)
        positive = np.ones(len(rows), bool)
        for member in range(self._members):
            values = interpreter.predict([np.array([member], np.int32)])
            positive &= [bool((value > 0).all()) for value in values]
        return positive.tolist()


def _first(gone: dict[int, int], tensor: int) -> int:
    """What is read in place of a tensor that has gone."""
    while tensor in gone:
        tensor = gone[tensor]
    return tensor


class _Offsets(_Folding):
    """Goes through the graph once; what it makes is kept only if less is left to add."""

    def __init__(self, model: Any, into_convolutions: bool) -> None:
        super().__init__(model)
        self._into_convolutions = into_convolutions
        self._makers: dict[int, Any] = {}
        #: By tensor: what stands for it, and the vectors that still have to be added to that.
        self._pending: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._sums: dict[tuple[int, ...], int] = {}
        self._operators: list[Any] = []
        self._replaced: dict[int, int] = {}
        self._biases: dict[int, tuple[Any, list[int]]] = {}
        self._folded = 0

    def run(self) -> dict[str, int]:
        rows_before = [op for op in self.graph.operators if self.map_and_row(op, "ADD")]
        for op in self.graph.operators:
            self._visit(op)
        for tensor in self.graph.outputs.tolist():
            self._settle(tensor)
        rows_after = [op for op in self._operators if self.map_and_row(op, "ADD")]
        if self._numbers(rows_after) >= self._numbers(rows_before):
            return {}
        for convolution, rows in self._biases.values():
            x, filters, multiplier, bias, *rest = convolution.inputs.tolist()
            for row in rows:
                bias = self.combined("ADD", row, bias)
            convolution.inputs = np.array([x, filters, multiplier, bias, *rest], np.int32)
        self.graph.operators = self.with_vectors(self._operators)
        merged = len(rows_before) - len(rows_after) - self._folded
        counts = {"folded_offsets": self._folded, "merged_offsets": merged}
        return {name: count for name, count in counts.items() if count > 0}

    def _numbers(self, operators: Sequence[Any]) -> int:
        return sum(self.size(int(op.outputs[0])) for op in operators)

    def _visit(self, op: Any) -> None:
        inputs, output = op.inputs.tolist(), int(op.outputs[0])
        waiting = [self._pending.get(index, (index, ())) for index in inputs]
        with_row = self.map_and_row(op, "ADD")
        if with_row:
            x, row = with_row
            base, rows = self._pending.get(x, (x, ()))
            if output not in self.graph.outputs and self._into_bias(base, (row,)):
                self._folded += 1
            else:
                rows = (*rows, row)
            self._pending[output] = base, rows
            self._reads[base] += self._reads[output] - 1
            return
        rows = tuple(row for _, several in waiting for row in several)
        if not rows or not self._lets_offsets_pass(op):
            for index in inputs:
                self._settle(index)
            settled = copy.copy(op)
            settled.inputs = np.array([self._replaced.get(i, i) for i in inputs], np.int32)
            self._emit(settled)
            return
        moved = copy.copy(op)
        moved.inputs = np.array([base for base, _ in waiting], np.int32)
        base = self.like(output)
        moved.outputs = np.array([base], np.int32)
        self._of_image.add(base)
        self._reads[base] = self._reads[output]
        self._emit(moved)
        if (
            self.name(op) == "ADD"
            and output not in self.graph.outputs
            and any(self._into_bias(index, rows) for index in moved.inputs.tolist())
        ):
            self._folded += len(rows)
            rows = ()
        self._pending[output] = base, rows

    def _emit(self, op: Any) -> None:
        self._makers.update(dict.fromkeys(op.outputs.tolist(), op))
        self._operators.append(op)

    def _lets_offsets_pass(self, op: Any) -> bool:
        """Whether an offset of its inputs, a value a channel, is one of its output."""
        if self.name(op) == "ADD":
            one, other = op.inputs.tolist()
            return not op.builtinOptions.fusedActivationFunction and self.shape(one) == self.shape(
                other
            )
        if self.name(op) == "AVERAGE_POOL_2D":
            return not op.builtinOptions.fusedActivationFunction
        if self.name(op) == "MEAN":
            axes = content(self.model, self.graph.tensors[int(op.inputs[1])])
            return axes is not None and axes.tolist() == [1, 2]
        return False

    def _into_bias(self, tensor: int, rows: tuple[int, ...]) -> bool:
        """Adds vectors to the bias of a convolution that a sum is made of, if that is possible.

        It is where the values without the vectors are read by nothing else.
        """
        op = self._makers.get(tensor)
        if not self._into_convolutions or op is None or self._reads[tensor] != 1:
            return False
        if self.is_float_convolution(op):
            self._biases.setdefault(id(op), (op, []))[1].extend(rows)
            return True
        return (
            self.name(op) == "ADD"
            and self._lets_offsets_pass(op)
            and any(self._into_bias(index, rows) for index in op.inputs.tolist())
        )

    def _settle(self, tensor: int) -> None:
        """Adds what a tensor waits for, because its value is read now."""
        base, rows = self._pending.get(tensor, (tensor, ()))
        if not rows:
            self._replaced[tensor] = base
            return
        self._pending[tensor] = tensor, ()
        row = rows[0]
        for number in range(1, len(rows)):
            key = rows[: number + 1]
            if key not in self._sums:
                self._sums[key] = self.combined("ADD", row, rows[number])
            row = self._sums[key]
        options = schema().AddOptionsT()
        options.fusedActivationFunction = 0
        self._emit(self.operator("ADD", [base, row], tensor, options))
