"""Checks that the graphs of a file can be run: by their structure, and operator by operator.

What is checked: each operand is computed before it is read; constants have as many bytes as their
shape and type ask; types, shapes, quantization and options fit the operator (`rules`); lookups stay
within their table; the tensors fit in memory; signatures name the inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np

from larq_ensemble.errors import EnsembleError
from larq_ensemble.tflite.model import AnyGraph, Model, Operator, Tensor
from larq_ensemble.tflite.rules import (
    BITS,
    RULES,
    InvalidGraphError,
    UncheckedError,
    bytes_of,
    require,
)

#: The most bytes of the tensors that a graph computes, taken together.
MEMORY_LIMIT = 1 << 31
#: Of TFLite's schema.
_VERSION = 3
#: TFLite's kernels go through so many dimensions at most.
_RANK_LIMIT = 8
#: Operators that run another graph of the file, or keep values outside of graphs.
_CONTROL_FLOW = ("CALL", "CALL_ONCE", "IF", "WHILE", "STABLEHLO_WHILE", "DELEGATE")

#: The smallest and the largest value of a tensor of integers.
Range = tuple[int, int]


def verify(model: Model, members: int | None = None, name: str = "The model") -> None:
    """Checks what is to be run.

    Operators without a rule are let through: `problems` reports them.

    # Arguments
        model: a file.
        members: the number of members, which the input `member` stays below; `None`: unknown.
        name: what an error calls the file.

    # Raises
        EnsembleError: for the first thing that is wrong.
    """
    for problem in problems(model, members):
        if not isinstance(problem, UncheckedError):
            raise EnsembleError(
                f"{name} is damaged: {problem}. Copy or convert it again."
            ) from problem


def problems(model: Model, members: int | None = None) -> Iterator[InvalidGraphError]:
    """Everything that is wrong with a file, or that can't be checked.

    # Arguments
        model, members: as for `verify`.

    # Returns
        `UncheckedError`: what there is no rule for; other `InvalidGraphError`s: what is wrong.
    """
    for part in model.unread:
        yield InvalidGraphError(f"it has {part}, which no ensemble has")
    if model.version != _VERSION:
        yield InvalidGraphError(f"its schema has version {model.version}, not {_VERSION}")
    if not model.graphs:
        yield InvalidGraphError("it has no graph")
    passed: set[Hashable] = set()
    for number, graph in enumerate(model.graphs):
        found = f"graph {number}" if graph.signature is None else f"graph {graph.signature.key!r}"
        for problem in graph_problems(graph, members, passed):
            yield type(problem)(f"{found}: {problem}")


def graph_problems(
    graph: AnyGraph, members: int | None, passed: set[Hashable] | None = None
) -> Iterator[InvalidGraphError]:
    """What is wrong with a graph; at most one problem for each tensor and operator.

    # Arguments
        graph: the graph.
        members: as for `verify`.
        passed: tensors and operators of the model that passed; members' graphs are alike.
    """
    passed = set() if passed is None else passed
    known = set(graph.tensors)
    if len(known) < len(graph.tensors):
        yield InvalidGraphError("a tensor is listed twice")
    for number, tensor in enumerate(graph.tensors):
        identities = id(tensor.data), id(tensor.quantization)
        key = tensor.shape, tensor.dtype, tensor.is_variable, identities
        if key in passed:
            continue
        try:
            _check_tensor(tensor)
            passed.add(key)
        except InvalidGraphError as error:
            yield InvalidGraphError(f"tensor {number}, {_described([tensor])}: {error}")
    yield from _input_problems(graph, known)
    available = {*graph.inputs, *(tensor for tensor in graph.tensors if tensor.data is not None)}
    lookups = _Lookups(graph, members)
    for place, op in enumerate(graph.operators):
        try:
            _check_order(op, known, available)
            _check_rule(op, passed)
            lookups.follow(op)
        except InvalidGraphError as error:
            kind = type(error)
            yield kind(
                f"operator {place}, {op.name}({_described(op.inputs)}) -> "
                f"({_described(op.outputs)}): {error}"
            )
        available.update(op.outputs)
    if not available.issuperset(graph.outputs):
        yield InvalidGraphError("an output of the graph has no producer")
    memory = sum(bytes_of(tensor) for op in graph.operators for tensor in op.outputs)
    if memory >= MEMORY_LIMIT:
        yield InvalidGraphError(f"its tensors take {memory} bytes")


def _check_tensor(tensor: Tensor) -> None:
    require(tensor.dtype in BITS, "no ensemble has this type")
    lowest = 1 if tensor.data is None else 0
    require(len(tensor.shape) <= _RANK_LIMIT, "it has too many dimensions")
    require(min(tensor.shape, default=1) >= lowest, "it has no size")
    require(bytes_of(tensor) < MEMORY_LIMIT, "it is too large")
    require(not tensor.is_variable, "it keeps its value between runs")
    if tensor.data is not None:
        require(tensor.data.size == bytes_of(tensor), f"the constant has {tensor.data.size} bytes")
        address, _ = tensor.data.__array_interface__["data"]
        require(
            address % min(max(BITS[tensor.dtype] // 8, 1), 4) == 0, "the constant is not aligned"
        )
    if tensor.quantization is not None:
        _check_quantization(tensor)


def _check_quantization(tensor: Tensor) -> None:
    scales, zeros = (
        () if values is None else values
        for values in (tensor.quantization.scale, tensor.quantization.zeroPoint)
    )
    if not len(scales):
        return
    require(len(zeros) in (len(scales), 1), f"{len(scales)} scales have {len(zeros)} zero points")
    require(
        bool(np.isfinite(scales).all() and np.min(scales) > 0), "a scale is not a positive number"
    )
    axis = tensor.quantization.quantizedDimension
    if len(scales) > 1:
        inside = 0 <= axis < len(tensor.shape)
        require(inside and len(scales) == tensor.shape[axis], "no scale for each channel")


def _input_problems(graph: AnyGraph, known: set[Tensor]) -> Iterator[InvalidGraphError]:
    listed = [*graph.inputs, *graph.outputs]
    if not known.issuperset(listed):
        yield InvalidGraphError("an input or output is not among the tensors")
    if len(set(graph.inputs)) < len(graph.inputs):
        yield InvalidGraphError("an input is listed twice")
    if any(tensor.data is not None for tensor in graph.inputs):
        yield InvalidGraphError("an input is a constant")
    if graph.signature is not None:
        for named, tensors in (
            (graph.signature.inputs, graph.inputs),
            (graph.signature.outputs, graph.outputs),
        ):
            if set(named.values()) != set(tensors):
                yield InvalidGraphError("the signature names other tensors")


def _check_order(op: Operator, known: set[Tensor], available: set[Tensor]) -> None:
    for slot, tensor in enumerate(op.inputs):
        if tensor is None:
            continue
        require(tensor in known, f"input {slot} is not among the graph's tensors")
        require(tensor in available, f"input {slot} has no producer before it")
    for slot, tensor in enumerate(op.outputs):
        require(tensor in known, f"output {slot} is not among the graph's tensors")
        require(
            tensor not in available and tensor not in op.outputs[:slot],
            f"output {slot} is a constant, an input, or has another producer",
        )


def _check_rule(op: Operator, passed: set[Hashable]) -> None:
    require(op.name not in _CONTROL_FLOW, "no ensemble has control flow")
    if op.name not in RULES:
        raise UncheckedError("there is no rule for this operator")
    if not all(tensor.dtype in BITS for tensor in (*op.operands, *op.outputs)):
        return  # the tensor's problem is known
    key = op.name, id(op.options), op.custom_options, *map(_rule_s_view, (*op.inputs, *op.outputs))
    if key in passed:
        return
    try:
        RULES[op.name](op)
    except InvalidGraphError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise InvalidGraphError(str(error)) from error
    passed.add(key)


def _rule_s_view(tensor: Tensor | None) -> Hashable:
    """What a rule may look at: of constants, only those of integers can be parameters."""
    if tensor is None:
        return None
    data = tensor.data if tensor.dtype in ("int32", "int64") else tensor.data is not None
    return tensor.shape, tensor.dtype, id(data), id(tensor.quantization)


class _Lookups:
    """The ranges of the tensors of integers that GATHER looks values up by."""

    def __init__(self, graph: AnyGraph, members: int | None) -> None:
        self._known: dict[Tensor, Range] = {}
        member = None if graph.signature is None else graph.signature.inputs.get("member")
        if member is not None and members is not None:
            self._known[member] = 0, members - 1

    def follow(self, op: Operator) -> None:
        """Checks a lookup, or computes the range of an operator's output.

        # Raises
            InvalidGraphError: if a lookup may be outside of its table.
        """
        if op.name == "GATHER":
            self._check(op)
        if op.name in _RANGES and op.outputs[0].dtype in ("int32", "int64"):
            ranges = [self._range(tensor) for tensor in op.operands]
            if ranges[0] is not None and None not in ranges[: _RANGES[op.name]]:
                self._known[op.outputs[0]] = _range_of(op.name, ranges)  # type: ignore[arg-type]

    def _check(self, op: Operator) -> None:
        table, index = op.operands
        size = table.shape[op.options.axis]
        found = self._range(index)
        if found is None:
            raise UncheckedError("nothing bounds the index")
        low, high = found
        require(low >= 0 and high < size, f"it looks up {low} to {high} of {size} values")

    def _range(self, tensor: Tensor) -> Range | None:
        if tensor.dtype == "uint8":  # bytes of bits, which a table unpacks
            return 0, 255
        if tensor.data is not None and tensor.size and tensor.dtype in ("int32", "int64"):
            return int(tensor.values.min()), int(tensor.values.max())
        return self._known.get(tensor)


#: Operator name -> how many inputs decide about the range of the output.
_RANGES = {"RESHAPE": 1, "CAST": 1, "GATHER": 1, "MINIMUM": 2, "MAXIMUM": 2, "ADD": 2, "MUL": 2}


def _range_of(name: str, ranges: Sequence[Range]) -> Range:
    (low, high), *others = ranges
    if name in ("RESHAPE", "CAST", "GATHER"):
        return low, high
    ((other_low, other_high),) = others
    if name == "MINIMUM":
        return min(low, other_low), min(high, other_high)
    if name == "MAXIMUM":
        return max(low, other_low), max(high, other_high)
    if name == "ADD":
        return low + other_low, high + other_high
    products = [x * y for x in (low, high) for y in (other_low, other_high)]
    return min(products), max(products)


def _described(tensors: Iterable[Tensor | None]) -> str:
    return ", ".join("-" if t is None else f"{t.dtype}{list(t.shape)}" for t in tensors)
