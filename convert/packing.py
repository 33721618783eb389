"""Making a converted flatbuffer small without changing one bit of what it computes.

LCE's converter names every tensor, repeats equal constants and options, and spells PReLU with a
looked-up alpha in five operators. None of that is needed to run the file:

1. a constant that was looked up only to hide it from the converter is a constant again;
2. `relu(x) - alpha * relu(-x)` becomes one PRELU;
3. looked-up signs, int8, become one bit each, which LceDequantize unpacks;
4. large factors and summands that are half floats in truth are stored so, behind a DEQUANTIZE;
5. operators and tensors that nothing reads any more are dropped, and so are the tensors' names
   and their empty quantization tables (the SignatureDef keeps the names of inputs and outputs);
6. equal constants share one buffer; equal tables, vectors, strings and custom options are written
   once (by `SharingBuilder`).

1 to 5 are `simplify`, for the one graph that the converter writes; 6 is `share`, for any.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np

from larq_ensemble.convert.flatbuffer import (
    SharingBuilder,
    add_buffer,
    content,
    operator_names,
    schema,
)

# From this many bytes on a constant is worth an operator that converts it.
_LARGE = 512


def simplify(model: Any) -> None:
    """Leaves only what the outputs need in a `ModelT`, in place; see the module's text.

    # Arguments
        model: with one subgraph, as LCE's converter writes it.
    """
    reveal_constants(model)
    fuse_prelu(model)
    pack_signs(model)
    halve_constants(model)
    drop_unread(model)
    drop_names(model)


def share(model: Any) -> None:
    """Makes a `ModelT` store equal things once, in place; the last that is done to it."""
    share_buffers(model)
    share_tables(model)


def reveal_constants(model: Any) -> None:
    """Replaces lookups by `min(member, 0)`, which is always 0, by the row that they read."""
    graph = model.subgraphs[0]
    names = operator_names(model)
    zeros = {int(op.outputs[0]) for op in graph.operators if names[op.opcodeIndex] == "MINIMUM"}
    kept = []
    for op in graph.operators:
        if names[op.opcodeIndex] == "GATHER" and int(op.inputs[1]) in zeros:
            table, row = (graph.tensors[int(index)] for index in (op.inputs[0], op.outputs[0]))
            # The table has one row only, so its bytes are those of the row.
            row.buffer = table.buffer
        else:
            kept.append(op)
    graph.operators = kept


def fuse_prelu(model: Any) -> None:
    """Replaces each `relu(x) - alpha * relu(-x)` by PRELU(x, alpha).

    PRELU computes `x if x >= 0 else x * alpha`: the same bits, since one of the two terms is zero
    (only the sign of a zero may differ, which no comparison sees).
    """
    graph = model.subgraphs[0]
    names = operator_names(model)
    makers = {int(output): op for op in graph.operators for output in op.outputs}
    readers = Counter(int(index) for op in graph.operators for index in op.inputs)
    readers.update(int(index) for index in graph.outputs)

    def made_by(name: str, tensor: int, uses: int = 1) -> Any:
        """The operator `name` that makes `tensor` for this use alone, or `None`."""
        op = makers.get(int(tensor))
        if op is None or names[op.opcodeIndex] != name or readers[int(tensor)] != uses:
            return None
        return op

    def match(subtraction: Any) -> tuple[int, int] | None:
        """`(x, alpha)` if the SUB ends the pattern."""
        positive = made_by("RELU", subtraction.inputs[0])
        product = made_by("MUL", subtraction.inputs[1])
        if positive is None or product is None:
            return None
        for alpha, negative in (product.inputs, product.inputs[::-1]):
            relu = made_by("RELU", negative)
            negation = relu and made_by("NEG", relu.inputs[0])
            if negation and negation.inputs[0] == positive.inputs[0]:
                return int(positive.inputs[0]), int(alpha)
        return None

    for op in graph.operators:
        found = match(op) if names[op.opcodeIndex] == "SUB" else None
        if found is None:
            continue
        op.opcodeIndex = operator_code(model, schema().BuiltinOperator.PRELU)
        op.inputs = np.array(found, np.int32)
        op.builtinOptionsType, op.builtinOptions = 0, None


def pack_signs(model: Any) -> None:
    """Stores int8 tables of +1 and -1 that are looked up and cast to float as one bit a value.

    The last axis is packed into int32 words as LCE packs it: channel c is bit `c mod 32` of word
    `c // 32`, set for -1. LceDequantize takes the place of CAST and yields the same floats.
    """
    graph = model.subgraphs[0]
    names = operator_names(model)
    readers = Counter(int(index) for op in graph.operators for index in op.inputs)
    gathers = {
        int(op.outputs[0]): op for op in graph.operators if names[op.opcodeIndex] == "GATHER"
    }
    for op in graph.operators:
        gather = gathers.get(int(op.inputs[0])) if names[op.opcodeIndex] == "CAST" else None
        if gather is None:
            continue
        table, row = (graph.tensors[int(i)] for i in (gather.inputs[0], gather.outputs[0]))
        if table.type != schema().TensorType.INT8 or any(
            readers[int(i)] != 1 for i in (gather.inputs[0], gather.outputs[0])
        ):
            continue
        signs = model.buffers[table.buffer].data.view(np.int8).reshape(table.shape)
        if not (np.abs(signs) == 1).all():
            continue
        words = _bit_packed(signs)
        table.buffer = add_buffer(model, words)
        for tensor, shape in ((table, words.shape), (row, words.shape[1:])):
            tensor.type, tensor.shape = schema().TensorType.INT32, np.array(shape, np.int32)
        # The row's shape is known here, LceDequantize demands that of its output to agree with it.
        graph.tensors[int(op.outputs[0])].shape = np.array(signs.shape[1:], np.int32)
        custom = schema().BuiltinOperator.CUSTOM
        op.opcodeIndex = operator_code(model, custom, b"LceDequantize")
        op.builtinOptionsType, op.builtinOptions = 0, None
        op.customOptions = np.array([], np.uint8)


def halve_constants(model: Any) -> None:
    """Stores large float32 factors and summands whose values are half floats as float16.

    DEQUANTIZE converts a constant once, when the interpreter runs first.
    """
    graph = model.subgraphs[0]
    names = operator_names(model)
    readers: dict[int, list[Any]] = {}
    for op in graph.operators:
        for index in op.inputs:
            readers.setdefault(int(index), []).append(op)
    conversions = []
    for index, tensor in enumerate(list(graph.tensors)):
        values = content(model, tensor)
        if (
            values is None
            or values.dtype != np.float32
            or values.nbytes < _LARGE
            or any(names[op.opcodeIndex] not in ("ADD", "MUL") for op in readers.get(index, []))
        ):
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not (halves == values).all():
            continue
        half = copy.copy(tensor)
        half.type = schema().TensorType.FLOAT16
        half.buffer, tensor.buffer = add_buffer(model, halves), 0
        conversion = schema().OperatorT()
        # Version 3 is the first that takes float16.
        dequantize = schema().BuiltinOperator.DEQUANTIZE
        conversion.opcodeIndex = operator_code(model, dequantize, version=3)
        conversion.inputs = np.array([len(graph.tensors)], np.int32)
        conversion.outputs = np.array([index], np.int32)
        graph.tensors.append(half)
        conversions.append(conversion)
    graph.operators = conversions + graph.operators


def _bit_packed(signs: np.ndarray) -> np.ndarray:
    """int32 `[..., ceil(n / 32)]` from +1 and -1 `[..., n]`."""
    missing = [(0, 0)] * (signs.ndim - 1) + [(0, -signs.shape[-1] % 32)]
    bits = np.packbits(np.pad(signs < 0, missing), axis=-1, bitorder="little")
    return bits.view("<i4")


def operator_code(model: Any, builtin: int, custom: bytes | None = None, version: int = 1) -> int:
    """The number of an operator in a `ModelT`, which is added if it is new."""
    for number, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.customCode, code.version) == (builtin, custom, version):
            return number
    code = schema().OperatorCodeT()
    code.builtinCode = builtin
    # The field of older readers has 8 bits and stops at the schema's placeholder.
    code.deprecatedBuiltinCode = min(
        builtin, schema().BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
    )
    code.customCode = custom
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def drop_unread(model: Any) -> None:
    """Drops operators, tensors, operator codes and buffers that no output depends on."""
    graph = model.subgraphs[0]
    needed = {int(index) for index in graph.outputs}
    kept = []
    for op in reversed(graph.operators):
        if needed.intersection(op.outputs.tolist()):
            needed.update(op.inputs.tolist())
            kept.append(op)
    graph.operators = kept[::-1]
    used = needed.union(graph.inputs.tolist(), *(op.outputs.tolist() for op in kept)) - {-1}
    new_tensor = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in sorted(used)]
    for holder in (graph, *graph.operators):
        holder.inputs = renumbered(holder.inputs, new_tensor)
        holder.outputs = renumbered(holder.outputs, new_tensor)
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = new_tensor[entry.tensorIndex]
    codes = sorted({op.opcodeIndex for op in graph.operators})
    for op in graph.operators:
        op.opcodeIndex = codes.index(op.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[old] for old in codes]


def drop_names(model: Any) -> None:
    """Drops what only a human reads: names, the description, empty quantization tables."""
    model.description = None
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = None
            tensor.shapeSignature = None
            quantization = tensor.quantization
            if quantization is not None and all(
                value is None or value == 0 for value in vars(quantization).values()
            ):
                tensor.quantization = None


def share_buffers(model: Any) -> None:
    """Lets equal constants share one buffer and drops the buffers that are left over.

    Buffer 0 has no content by convention and stands for "no constant". The empty shape of a scalar
    is a constant: taken for none, it would make what is reshaped dynamic, and TFLite would give it
    new memory at every run and keep XNNPACK away from the graph.
    """
    new_index: dict[bytes | None, int] = {None: 0}
    buffers = [schema().BufferT()]

    def shared(old: int) -> int:
        data = model.buffers[old].data
        content = None if data is None else data.tobytes()
        if content not in new_index:
            new_index[content] = len(buffers)
            buffers.append(model.buffers[old])
        return new_index[content]

    # Subgraphs may have tensors in common.
    for tensor in {id(tensor): tensor for g in model.subgraphs for tensor in g.tensors}.values():
        tensor.buffer = shared(tensor.buffer)
    for entry in model.metadata or []:
        entry.buffer = shared(entry.buffer)
    model.buffers = buffers


def share_tables(model: Any) -> None:
    """Lets equal tensor and option tables stand once in the file, whatever points to them.

    The interpreter gives each entry of the tensor list its own memory, so entries may share a
    description.
    """
    written: dict[Any, WrittenOnce] = {}

    def once(table: Any) -> WrittenOnce:
        # Subgraphs may have operators in common, whose options have been here already.
        if isinstance(table, WrittenOnce):
            return table
        return written.setdefault(table_key(table), WrittenOnce(table))

    for graph in model.subgraphs:
        for op in graph.operators:
            if op.builtinOptions is not None:
                op.builtinOptions = once(op.builtinOptions)
        graph.operators = [*map(once, graph.operators)]
        graph.tensors = [*map(once, graph.tensors)]


class WrittenOnce:
    """A table object that is packed at most once into a builder and then pointed to."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._builder: SharingBuilder | None = None
        self._offset = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def Pack(self, builder: SharingBuilder) -> int:
        if self._builder is not builder:
            self._builder, self._offset = builder, self._table.Pack(builder)
        return self._offset


def table_key(value: Any) -> Any:
    """Something hashable that is equal for tables of equal content."""
    if isinstance(value, WrittenOnce):
        return id(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list):
        return tuple(map(table_key, value))
    if hasattr(value, "Pack"):
        return type(value).__name__, tuple(
            (name, table_key(item)) for name, item in vars(value).items()
        )
    return value


def renumbered(indices: np.ndarray, new: dict[int, int]) -> np.ndarray:
    """Numbers of tensors, where `new` gives each old number's new one."""
    return np.array([new[int(index)] for index in indices], np.int32)
