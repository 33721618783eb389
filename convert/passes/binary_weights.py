"""Stores binary and ternary weights that are float32 constants as bits.

    constant float32 [..., n] -> CONV_2D, FULLY_CONNECTED and so on

becomes, without and with scales s,

    bits int32 [..., n / 32] -> LceDequantize -------------> the same operator
    bits int32 [..., n / 32] -> LceDequantize -> MUL by s --^

and for ternary weights, s * (b_1 + b_2) / 2 with two planes of signs,

    bits int32 [2, words] -> LceDequantize -> SUM -> RESHAPE -> MUL by s / 2 --^

LCE's converter packs the filters of its binary convolutions only. It leaves binary weights as
floats where the input is real-valued (a first layer, DoReFa), and in dense, depthwise and separable
layers. If rows don't fill whole words, the weights are packed without gaps, and RESHAPE follows.

The operators run at every inference, because LCE computes nothing of its own in advance.

Left alone: constants where this saves less than 512 bytes, or whose values are none of s, 0 and -s
with one s for all or one for each index of an axis; constants that other operators read.

Exact: the products are computed here in float32, and have to equal the constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.convert.passes.sign_packing import bit_packed
from larq_ensemble.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.ir.schema import options

_LEAST_SAVED_BYTES = 512
_WORD = 32
#: Operators that take weights that are computed at run time.
_MATRIX_OPERATORS = {
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"),
    *("FULLY_CONNECTED", "BATCH_MATMUL"),
}
#: The most magnitudes that weights with the same scale have: the scale and 0.
_MOST_MAGNITUDES = 2


def run(module: Module) -> Counter[str]:
    """Counts `packed_weights`."""
    graph = module.graph
    unpacking: list[Operator] = []
    count = 0
    for tensor in list(graph.tensors):
        if tensor.data is None or not _takes_unpacked(graph, tensor):
            continue
        planes = planes_of(tensor)
        if planes is not None and tensor.data.nbytes - planes.nbytes >= _LEAST_SAVED_BYTES:
            tensor.data = None
            unpacking += _unpacking(graph, tensor, planes)
            count += 1
    graph.rebuild(graph.operators, unpacking)
    return Counter(packed_weights=count)


@dataclass(frozen=True)
class Planes:
    """Weights as a sum of signs, `scale * signs.sum(axis=0)`.

    # Arguments
        signs: int8 `[k, ...]`, +1 and -1; one plane of binary weights, two of ternary ones.
        scale: float32, of as many dimensions as the weights: one for all, or one for each channel.
    """

    signs: np.ndarray
    scale: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The signs as they are packed: one plane of whole words as it is, else a row a plane."""
        has_gaps = bool(self.signs.shape[-1] % _WORD)
        return (
            self.signs.reshape(len(self.signs), -1)
            if self.is_ternary or has_gaps
            else self.signs[0]
        )

    @property
    def is_ternary(self) -> bool:
        """Whether there are two planes."""
        return len(self.signs) > 1

    @property
    def is_scaled(self) -> bool:
        """Whether the scales aren't all 1."""
        return not (self.scale == 1).all()

    @property
    def nbytes(self) -> int:
        """Bytes of the bits and the scales."""
        return bit_packed(self.rows).nbytes + (self.scale.nbytes if self.is_scaled else 0)


def planes_of(tensor: Tensor) -> Planes | None:
    """The planes of a constant of binary or ternary weights; `None` if it is none."""
    if tensor.data is None or tensor.dtype != "float32" or tensor.size < _WORD:
        return None
    values = tensor.values
    for largest in _scales(values):
        signs = np.where(np.signbit(values), -1, 1).astype(np.int8)
        if (signs * largest == values).all():
            return Planes(signs[np.newaxis], largest)
        half = largest / np.float32(2)
        both = np.stack([signs, np.where(values > 0, 1, -1).astype(np.int8)])
        is_equal = (both.sum(axis=0, dtype=np.int8) * half == values).all()
        # The sum of +1 and -1 is never -0.
        if is_equal and not np.signbit(values[values == 0]).any():
            return Planes(both, half)
    return None


def _scales(values: np.ndarray) -> Iterator[np.ndarray]:
    """The largest magnitude of all values, and of each channel along each axis.

    Only those that may be scales of binary or ternary weights.
    """
    magnitudes = np.abs(values)
    for kept in (None, *range(values.ndim)):
        sample = magnitudes if kept is None else magnitudes.take(0, axis=kept)
        if np.unique(sample.reshape(-1)[:256]).size > _MOST_MAGNITUDES:
            continue
        axes = tuple(axis for axis in range(values.ndim) if axis != kept)
        largest = magnitudes.max(axis=axes, keepdims=True)
        # A filter of zeros has the scale 0.
        if largest.any() and np.isfinite(largest).all():
            yield largest


def _takes_unpacked(graph: Graph, tensor: Tensor) -> bool:
    """Whether all that reads a constant takes weights that are computed at run time.

    MUL does, but a constant of one sign is rather a scale or a mask there.
    """
    readers = {op.name for op in graph.consumers(tensor)}
    if tensor.dtype != "float32" or tensor in graph.outputs or not readers:
        return False
    return readers <= _MATRIX_OPERATORS or (
        readers <= {*_MATRIX_OPERATORS, "MUL"} and bool((tensor.values < 0).any())
    )


def _unpacking(graph: Graph, weights: Tensor, planes: Planes) -> list[Operator]:
    """The operators that compute weights from bits; the tensors are of the graph."""
    operators: list[Operator] = []

    def compute(name: str, *inputs: Tensor, shape: tuple[int, ...], **fields: Any) -> Tensor:
        output = graph.add(Tensor(shape, "float32"))
        operators.append(Operator(name, inputs, (output,), **fields))
        return output

    def constant(values: Any, dtype: str) -> Tensor:
        return graph.add(Tensor.constant(np.array(values, dtype)))

    rows = planes.rows
    value = compute(
        "LceDequantize", constant(bit_packed(rows), "int32"), shape=rows.shape, custom_options=b""
    )
    if planes.is_ternary:
        sum_ = options("ReducerOptions")
        value = compute("SUM", value, constant([0], "int32"), shape=rows.shape[1:], options=sum_)
    if value.shape != weights.shape:
        value = compute("RESHAPE", value, constant(weights.shape, "int32"), shape=weights.shape)
    if planes.is_scaled:
        scale = constant(planes.scale, "float32")
        value = compute("MUL", value, scale, shape=weights.shape, options=options("MulOptions"))
    operators[-1].outputs = (weights,)
    return operators
