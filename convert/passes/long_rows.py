"""Reshapes maps to long rows, for elementwise operators and for packing signs of few channels.

An elementwise operator with one value per channel, `[1, h, w, c] + [c]`, starts a new loop at every
pixel. For 16 channels that costs more than the additions. LceQuantize is slow where the channels of
a pixel don't fill words of 32 bits. Rows of k pixels avoid both. They have the same numbers in the
same order in memory, so the RESHAPE is free where its input and output can share memory.

    map [1, h, w, c] -> RESHAPE -> [1, 1, n, k c] -> ADD -> LceQuantize -> ...
            vector [c] -> TILE  -> [k c] -------------^

Packed words with the signs of 32 / c pixels (c = 8 or 16) are read as unsigned integers of c bits
(BITCAST) and widened to a word per pixel (CAST).

Left alone: maps of fewer than 128 pixels, where repeating the vector costs what long rows save;
operators that don't gain, unless they are next to one that does, which saves a RESHAPE between.

Exact: every output has the same bits as before.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.schema import enum, options

#: Elementwise operators and which of their inputs can be maps.
_OPERATORS = {"ADD": 2, "MUL": 2, "SUB": 2, "PRELU": 1, "RELU": 1, "LceQuantize": 1}
#: The most numbers in a row. The cost of starting a row is small then, and so are the vectors.
_LONGEST = 256
_FEWEST_PIXELS = 128
_WORD = 32
#: Number of channels -> type of an integer with one bit per channel.
_INTEGERS = {8: "uint8", 16: "uint16"}


def run(module: Module) -> Counter[str]:
    """Counts the operators that got cheaper: `long_rows` with one value per channel, and
    `narrow_signs`, LceQuantize of 8 or 16 channels."""
    return _LongRows(module.graph).run()


class _LongRows:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._operators: list[Operator] = []
        #: Maps as long rows, and vectors as long as a row.
        self._long: dict[Tensor, Tensor] = {}
        self._repeated: dict[tuple[Tensor, int], Tensor] = {}

    def run(self) -> Counter[str]:
        chosen, counts = self._chosen()
        read_as_maps = set(self._graph.outputs)
        for op in self._graph.operators:
            if op not in chosen:
                read_as_maps.update(op.operands)
        for op in self._graph.operators:
            if op not in chosen:
                self._operators.append(op)
                continue
            self._lengthen(op, chosen[op])
            if op.name == "LceQuantize":
                self._unpack_words(op, chosen[op][0].shape[-1])
                continue
            (output,) = op.outputs
            self._long[output] = self._graph.add_like(output, _long_shape(output.shape))
            self._graph.rewrite(op, outputs=[self._long[output]])
            if output in read_as_maps:
                self._reshape(self._long[output], output)
        self._graph.rebuild(self._operators)
        return counts

    def _chosen(self) -> tuple[dict[Operator, list[Tensor]], Counter[str]]:
        """The maps of each operator that gets long rows, and how many operators gain by it."""
        candidates = [(op, maps) for op in self._graph.operators if (maps := _maps(op))]
        chosen: dict[Operator, list[Tensor]] = {}
        counts: Counter[str] = Counter()
        for op, maps in candidates:
            gain = _gain(op, maps)
            if gain:
                chosen[op] = maps
                counts[gain] += 1
        touched = {tensor for op, maps in chosen.items() for tensor in (*maps, *op.outputs)}
        growing = True
        while growing:
            growing = False
            for op, maps in candidates:
                if op not in chosen and not touched.isdisjoint([*maps, *op.outputs]):
                    chosen[op] = maps
                    touched.update([*maps, *op.outputs])
                    growing = True
        return chosen, counts

    def _lengthen(self, op: Operator, maps: list[Tensor]) -> None:
        """Lets an operator read long rows."""
        length = _length(maps[0].shape)
        self._graph.rewrite(
            op,
            inputs=[
                self._as_rows(tensor) if tensor in maps else self._repeat(tensor, length)
                for tensor in op.operands
            ],
        )
        self._operators.append(op)

    def _as_rows(self, tensor: Tensor) -> Tensor:
        """A map's numbers as long rows."""
        if tensor not in self._long:
            self._long[tensor] = self._graph.add_like(tensor, _long_shape(tensor.shape))
            self._reshape(tensor, self._long[tensor])
        return self._long[tensor]

    def _repeat(self, tensor: Tensor, length: int) -> Tensor:
        """A channel's values repeated to a long row; one value stays one."""
        channels = tensor.size
        if channels in (1, length):
            return tensor
        key = (tensor, length)
        if key not in self._repeated:
            vector = tensor
            if len(tensor.shape) != 1:
                vector = self._graph.add_like(tensor, [channels])
                self._reshape(tensor, vector)
            self._repeated[key] = self._graph.add_like(tensor, [length])
            times = self._integers([length // channels])
            self._operators.append(Operator("TILE", (vector, times), (self._repeated[key],)))
        return self._repeated[key]

    def _unpack_words(self, op: Operator, channels: int) -> None:
        """Makes a map with the words of each pixel of what LceQuantize makes of long rows."""
        (words,) = op.outputs
        rows, length = op.operands[0].shape[-2:]
        packed = self._graph.add_like(words, [1, 1, rows, length // _WORD])
        self._graph.rewrite(op, outputs=[packed])
        if channels % _WORD:
            integers = self._graph.add_like(packed, [*packed.shape, _WORD // channels])
            integers.dtype = _INTEGERS[channels]
            self._operators.append(Operator("BITCAST", (packed,), (integers,)))
            packed = self._graph.add_like(words, integers.shape)
            types = enum("TensorType")
            cast = options(
                "CastOptions",
                inDataType=types[integers.dtype.upper()],
                outDataType=types[words.dtype.upper()],
            )
            self._operators.append(Operator("CAST", (integers,), (packed,), cast))
        self._reshape(packed, words)

    def _reshape(self, source: Tensor, target: Tensor) -> None:
        shape = self._integers(target.shape)
        self._operators.append(Operator("RESHAPE", (source, shape), (target,)))

    def _integers(self, values: list[int] | tuple[int, ...]) -> Tensor:
        return self._graph.add(Tensor.constant(np.array(values, np.int32)))


def _maps(op: Operator) -> list[Tensor]:
    """The maps that an operator reads; none if it can't have long rows."""
    maps = [
        tensor
        for tensor in op.operands[: _OPERATORS.get(op.name, 0)]
        if np.prod(tensor.shape[:-1]) >= _FEWEST_PIXELS
    ]
    if not maps:
        return []
    shape = maps[0].shape
    channels = shape[-1]
    if len(shape) != 4 or shape[0] != 1 or any(tensor.shape != shape for tensor in maps):
        return []
    if not all(_is_vector(tensor, channels) for tensor in op.operands if tensor not in maps):
        return []
    if op.name == "LceQuantize" and (
        _length(shape) % _WORD or (channels % _WORD and channels not in _INTEGERS)
    ):
        return []
    return maps


def _is_vector(tensor: Tensor, channels: int) -> bool:
    """Whether a tensor has one value, or one for each channel: not, say, one for each row."""
    return tensor.size == 1 or tensor.size == tensor.shape[-1] == channels


def _gain(op: Operator, maps: list[Tensor]) -> str | None:
    """What becomes cheaper about an operator."""
    shape = maps[0].shape
    if op.name == "LceQuantize":
        return "narrow_signs" if shape[-1] % _WORD else None
    vectors = [tensor for tensor in op.operands if tensor not in maps and tensor.size > 1]
    return "long_rows" if vectors and _length(shape) > shape[-1] else None


def _length(shape: tuple[int, ...]) -> int:
    """Numbers in a long row of a map `[1, h, w, c]`: as many whole pixels as fit and divide it."""
    pixels, channels = shape[1] * shape[2], shape[3]
    most = max(_LONGEST // channels, 1)
    return channels * max(k for k in range(1, most + 1) if pixels % k == 0)


def _long_shape(shape: tuple[int, ...]) -> list[int]:
    length = _length(shape)
    return [1, 1, int(np.prod(shape)) // length, length]
