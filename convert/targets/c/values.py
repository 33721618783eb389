"""How constants are stored in flash: in the fewest bits that hold their numbers exactly.

| numbers | stored as | bytes a number |
|---|---|---|
| -1 and +1, of filters | signs | 1/8 |
| whole numbers from -128 to 127, of filters | int8 | 1 |
| that half floats hold | float16 | 2 |
| others | float32 | 4 |

Nothing is rounded, so the program has the file's numbers. A head with the format `"int8"` is whole
numbers here, because its scale comes after the sum.

With the precision `"compact"` a member's number is `steps * factor + middle`, with few bits for the
steps. A graph adds such numbers (each layer's offset to those before). The sums would be float32,
so a `Vector` computes them from their terms, if these are fewer bytes.
"""

from __future__ import annotations

import numpy as np

from larq_ensemble.convert.targets.c.members import MemberGraph
from larq_ensemble.convert.targets.c.plan import Term, Value, ValueFormat
from larq_ensemble.ir.graph import Operator, Tensor

#: The steps of a compact value: odd and of 4 bits.
_LARGEST_STEP = 15


class Values:
    """The values of a program, each once.

    # Arguments
        graph: where the constants come from.

    # Attributes
        terms: of a value, the compact numbers whose sum it is.
    """

    def __init__(self, graph: MemberGraph) -> None:
        self.terms: dict[Value, tuple[Term, ...]] = {}
        self._graph = graph
        self._values: dict[tuple[object, ...], Value] = {}
        self._columns: dict[tuple[Tensor, int], Term] = {}

    def vector(self, rows: np.ndarray, purpose: str, name: str = "") -> Value:
        """A number a channel.

        # Arguments
            rows: float32 `[rows, channels]`, or `[rows, 1]` for one number.
        """
        if (rows == rows[:, :1]).all():
            rows = rows[:, :1]
        return self._value(rows, "float16" if _are_halves(rows) else "float32", purpose, name)

    def filters(self, rows: np.ndarray, purpose: str, name: str = "") -> Value:
        """Filters of a convolution.

        # Arguments
            rows: float32 `[rows, out, height, width, in]`.
        """
        return self._value(rows, _smallest(rows), purpose, name)

    def thresholds(self, rows: np.ndarray, name: str = "") -> Value:
        """Limits of sums, int16 `[rows, channels]`."""
        return self._value(rows, "int16", "batch norm", name)

    def columns(self, rows: np.ndarray, name: str = "") -> Value:
        """Places in the width of a map, `[rows, width]`."""
        return self._value(rows.astype(np.int16), "int16", "columns", name)

    def signs(self, rows: np.ndarray, purpose: str, name: str = "") -> Value:
        """Signs +1 and -1, `[rows, channels]`."""
        return self._value(rows, "signs", purpose, name)

    def numbers(self, tensor: Tensor, channels: int, purpose: str) -> Value | None:
        """A number a channel, or one for all of them; `None` if they differ from pixel to pixel.

        # Arguments
            tensor: doesn't depend on the image; long rows repeat the vector.
        """
        rows = self._graph.rows(tensor).astype(np.float32, copy=False)
        repeated = rows.reshape(len(rows), -1)
        (*_, last) = tensor.shape or (1,)
        if last % channels == 0:
            first = repeated[:, :channels]
            repeated = repeated.reshape(len(rows), -1, channels)
            if (repeated != first[:, np.newaxis]).any():
                return None
            value = self.vector(first, purpose, tensor.name or "")
        elif tensor.size == 1:
            value = self.vector(repeated, purpose, tensor.name or "")
        else:
            return None
        if value.by_member and value not in self.terms:
            terms = self._terms_of(tensor, channels)
            if terms is not None:
                self.terms[value] = terms
        return value

    def _terms_of(self, tensor: Tensor, channels: int) -> tuple[Term, ...] | None:
        """The compact numbers whose sum a vector is; `None` if it is anything else."""
        op = self._graph.graph.producer(tensor)
        if op is None:
            return None
        if op.name in ("TILE", "RESHAPE"):
            return self._terms_of(op.operands[0], channels)
        if tensor.size != channels:
            return None
        if op.name in ("ADD", "MUL") and not op.activation:
            neutral = 0 if op.name == "ADD" else 1
            operands = [operand for operand in op.operands if not operand.is_constant(neutral)]
            parts = [self._terms_of(operand, channels) for operand in operands]
            if len(parts) == 1:
                return parts[0]
            return _joined(*parts) if op.name == "ADD" else None
        if op.name == "SPLIT_V":
            term = self._column(op, op.outputs.index(tensor))
            return None if term is None else (term,)
        return None

    def _column(self, split: Operator, number: int) -> Term | None:
        """The compact numbers that an output of SPLIT_V gets."""
        row = split.operands[0]
        sizes = [output.size for output in split.outputs]
        start = sum(sizes[:number])
        key = row, start
        if key not in self._columns:
            parts = self._compact(row)
            if parts is None:
                return None
            steps, factor, middle = (
                part if part.shape[1] == 1 else part[:, start : start + sizes[number]]
                for part in parts
            )
            name = split.outputs[number].name or ""
            self._columns[key] = Term(
                self._value(steps, "int4", "compact values", name),
                self.vector(factor, "compact values", name),
                self.vector(middle, "compact values", name),
            )
        return self._columns[key]

    def _compact(self, row: Tensor) -> tuple[np.ndarray, ...] | None:
        """Steps, factor and middle of `steps * factor + middle`, `[rows, columns]` each."""
        graph = self._graph.graph
        total = graph.producer(row, "ADD")
        if total is None or total.activation:
            return None
        product = graph.producer(total.operands[0], "MUL")
        if product is None or product.activation:
            return None
        steps, factor, middle = (
            self._graph.rows(tensor) for tensor in (*product.operands, total.operands[1])
        )
        is_small = (np.abs(steps) <= _LARGEST_STEP).all() and (np.abs(steps) % 2 == 1).all()
        has_columns = all(part.shape[1:] == row.shape for part in (steps, factor, middle))
        if not is_small or not has_columns or len(factor) + len(middle) > 2:
            return None
        return steps, factor, middle

    def _value(self, rows: np.ndarray, kind: ValueFormat, purpose: str, name: str) -> Value:
        by_member = len(rows) > 1
        data = np.ascontiguousarray(rows if by_member else rows[0])
        key = kind, data.dtype.str, data.shape, by_member, data.tobytes()
        if key not in self._values:
            self._values[key] = Value(data, kind, purpose, by_member, name)
        return self._values[key]


def _joined(
    first: tuple[Term, ...] | None, second: tuple[Term, ...] | None
) -> tuple[Term, ...] | None:
    """The terms of a sum, if adding them from left to right rounds as adding the two."""
    if first is None or second is None:
        return None
    if len(second) > 1:
        first, second = second, first
    return (*first, *second) if len(second) == 1 else None


def _smallest(rows: np.ndarray) -> ValueFormat:
    if (np.abs(rows) == 1).all():
        return "signs"
    if (rows == np.clip(np.rint(rows), -128, 127)).all():
        return "int8"
    return "float16" if _are_halves(rows) else "float32"


def _are_halves(rows: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool((rows.astype(np.float16) == rows).all())
