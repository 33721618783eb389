"""Long rows for elementwise operators, and signs of few channels packed fast.

An elementwise operator with a value for each channel, `[1, h, w, c] + [c]`, begins anew at every
pixel, which for 16 channels costs more than the additions. LceQuantize is slow where a pixel's
channels don't fill words of 32 bits. The same numbers in the same order as rows of k pixels cost
neither, and in memory such a tensor *is* the map: RESHAPE takes no time where the two can share
their memory.

    map [1, h, w, c] -> RESHAPE -> [1, 1, n, k c] -> ADD -> LceQuantize -> ...
               row [c] -> TILE  -> [k c] -------------^

Packed words with the signs of 32 / c pixels (c = 8 or 16) are read as unsigned integers of c bits
(BITCAST) and widened to a word a pixel (CAST). Every output keeps its bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.convert.editing import Editor
from larq_ensemble.convert.flatbuffer import schema

# Elementwise operators and which of their inputs can be maps.
_OPERATORS = {
    "ADD": 2,
    "MUL": 2,
    "SUB": 2,
    "PRELU": 1,
    "RELU": 1,
    "LceQuantize": 1,
}
# Rows of at most so many numbers: what it takes to begin one is little then, and so is repeating.
_LONGEST = 256
# Of fewer pixels repeating takes what the long rows save.
_FEWEST_PIXELS = 128
_WORD = 32


def widen_rows(model: Any) -> dict[str, int]:
    """Gives elementwise operators long rows, in place.

    # Arguments
        model: a `ModelT` with one subgraph.

    # Returns
        How many operators with a value for each channel (`"long_rows"`) and how many LceQuantize
        of 8 or 16 channels (`"narrow_signs"`) have become cheaper.
    """
    return _Widening(model).run()


class _Widening(Editor):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._operators: list[Any] = []
        self._long: dict[int, int] = {}
        self._repeated: dict[tuple[int, int], int] = {}

    def run(self) -> dict[str, int]:
        chosen, done = self._chosen()
        read_as_they_are = {int(index) for index in self.graph.outputs}
        for op in self.graph.operators:
            if id(op) not in chosen:
                read_as_they_are.update(op.inputs.tolist())
        for op in self.graph.operators:
            if id(op) not in chosen:
                self._operators.append(op)
                continue
            maps, output = chosen[id(op)], int(op.outputs[0])
            length = _length(self.shape(maps[0]))
            op.inputs = np.array(
                [
                    self._as_long(i) if i in maps else self._row(i, length)
                    for i in op.inputs.tolist()
                ],
                np.int32,
            )
            self._operators.append(op)
            if self.name(op) == "LceQuantize":
                self._unfold_words(op, self.shape(maps[0])[-1])
                continue
            self._long[output] = self.like(output, _long_shape(self.shape(output)))
            op.outputs = np.array([self._long[output]], np.int32)
            if output in read_as_they_are:
                self._reshape(self._long[output], output)
        self.graph.operators = self._operators
        return done

    def _chosen(self) -> tuple[dict[int, list[int]], dict[str, int]]:
        """The maps of each operator that gets long rows, by its `id`, and how many win by it.

        Those that don't win come along where they are next to one: maps keep their shape then.
        """
        candidates = [(op, maps) for op in self.graph.operators if (maps := self._maps(op))]
        chosen: dict[int, list[int]] = {}
        done = {"long_rows": 0, "narrow_signs": 0}
        for op, maps in candidates:
            gain = self._gain(op, maps)
            if gain:
                chosen[id(op)] = maps
                done[gain] += 1
        touched = {t for op, maps in candidates if id(op) in chosen for t in _of(op, maps)}
        growing = True
        while growing:
            growing = False
            for op, maps in candidates:
                if id(op) not in chosen and not touched.isdisjoint(_of(op, maps)):
                    chosen[id(op)] = maps
                    touched.update(_of(op, maps))
                    growing = True
        return chosen, {name: count for name, count in done.items() if count}

    def _maps(self, op: Any) -> list[int]:
        """The maps that an operator reads; none if it can't have long rows."""
        inputs = op.inputs.tolist()
        maps = [
            i
            for i in inputs[: _OPERATORS.get(self.name(op), 0)]
            if np.prod(self.shape(i)[:-1]) >= _FEWEST_PIXELS
        ]
        if not maps:
            return []
        shape = self.shape(maps[0])
        channels = shape[-1]
        if len(shape) != 4 or shape[0] != 1 or any(self.shape(i) != shape for i in maps):
            return []
        if any(self.size(i) not in (1, channels) for i in inputs if i not in maps):
            return []
        if self.name(op) == "LceQuantize" and (
            _length(shape) % _WORD or (channels % _WORD and channels not in _integers())
        ):
            return []
        return maps

    def _gain(self, op: Any, maps: list[int]) -> str | None:
        """What becomes cheaper about an operator."""
        shape = self.shape(maps[0])
        if self.name(op) == "LceQuantize":
            return "narrow_signs" if shape[-1] % _WORD else None
        rows = [i for i in op.inputs.tolist() if i not in maps and self.size(i) > 1]
        return "long_rows" if rows and _length(shape) > shape[-1] else None

    def _as_long(self, tensor: int) -> int:
        """The tensor with a map's numbers in long rows."""
        if tensor not in self._long:
            self._long[tensor] = self.like(tensor, _long_shape(self.shape(tensor)))
            self._reshape(tensor, self._long[tensor])
        return self._long[tensor]

    def _row(self, tensor: int, length: int) -> int:
        """The tensor with a channel's values repeated to a long row; one value stays one."""
        channels = self.size(tensor)
        if channels == 1 or channels == length:
            return tensor
        key = (tensor, length)
        if key not in self._repeated:
            flat = tensor
            if len(self.shape(tensor)) != 1:
                flat = self.like(tensor, [channels])
                self._reshape(tensor, flat)
            self._repeated[key] = self.like(tensor, [length])
            times = self.constant([length // channels])
            self._operators.append(self.operator("TILE", [flat, times], self._repeated[key]))
        return self._repeated[key]

    def _unfold_words(self, op: Any, channels: int) -> None:
        """Makes a map with the words of each pixel of what LceQuantize makes of long rows."""
        words = int(op.outputs[0])
        (rows, length) = self.shape(int(op.inputs[0]))[-2:]
        packed = self.like(words, [1, 1, rows, length // _WORD])
        op.outputs = np.array([packed], np.int32)
        if channels % _WORD:
            integers = self.like(packed, [*self.shape(packed), _WORD // channels])
            self.graph.tensors[integers].type = _integers()[channels]
            self._operators.append(self.operator("BITCAST", [packed], integers))
            widened = self.like(words, self.shape(integers))
            options = schema().CastOptionsT()
            options.inDataType = _integers()[channels]
            options.outDataType = schema().TensorType.INT32
            self._operators.append(self.operator("CAST", [integers], widened, options))
            packed = widened
        self._reshape(packed, words)

    def _reshape(self, source: int, target: int) -> None:
        self._operators.append(
            self.operator("RESHAPE", [source, self.constant(self.shape(target))], target)
        )


def _of(op: Any, maps: list[int]) -> list[int]:
    """The maps that an operator reads or writes; packed signs are none."""
    return [*maps, int(op.outputs[0])]


def _integers() -> dict[int, int]:
    """The type of an integer with a bit for each of so many channels."""
    return {8: schema().TensorType.UINT8, 16: schema().TensorType.UINT16}


def _length(shape: list[int]) -> int:
    """Numbers in a long row of a map `[1, h, w, c]`: as many whole pixels as fit and divide it."""
    pixels, channels = shape[1] * shape[2], shape[3]
    most = max(_LONGEST // channels, 1)
    return channels * max(k for k in range(1, most + 1) if pixels % k == 0)


def _long_shape(shape: list[int]) -> list[int]:
    length = _length(shape)
    return [1, 1, int(np.prod(shape)) // length, length]
