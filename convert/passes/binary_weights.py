"""Stores float32 weights of few magnitudes as bits.

    constant float32 [..., n] -> CONV_2D, FULLY_CONNECTED and so on

becomes, for binary weights without and with scales,

    bits int32 [..., n / 32] -> LceDequantize -----------> the same operator
    bits int32 [..., n / 32] -> LceDequantize -> MUL by s -^

LCE multiplies bits only by bits. So it leaves a binary kernel as floats where the layer's input is
real-valued (a first layer, DoReFa), and where it has no binary operator (dense, depthwise and
separable layers, layers of one's own). Quantizers of k bits give sums of k planes of signs b:

    w = s * (c_1 b_1 + ... + c_k b_k)

with c = 1, 2, 4... for k bits, and c = 1, 1 for ternary weights. The planes become one constant,
whose rows are multiplied by c and added up with SUM. Rows that don't fill whole words are packed
one after the other and brought into shape by RESHAPE.

The operators run at every inference: TFLite computes no custom operator in advance. Unpacking a
weight takes some instructions, a convolution multiplies it once per output pixel.

Left alone: constants where that saves less than 512 bytes; constants that an operator reads which
needs to know them before the first run; weights of other values.

Exact: the products and sums that make a weight are computed here in float32 and compared with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from larq_ensemble.convert.ir.graph import Graph, Module, Operator, Tensor
from larq_ensemble.convert.ir.schema import options
from larq_ensemble.convert.passes.sign_packing import bit_packed

_LEAST_SAVED_BYTES = 512
_WORD = 32
#: Operators that take weights that are computed at run time.
_READERS = {
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"),
    *("FULLY_CONNECTED", "BATCH_MATMUL", "MUL"),
}
#: The factors c of the planes: binary, ternary, 2 and 3 bits. More bits come near to int8.
_FACTORS = ((1,), (1, 1), (1, 2), (1, 2, 4))
#: The most magnitudes that these give, one of them 0.
_MOST_MAGNITUDES = 4


def run(module: Module) -> Counter[str]:
    """Counts `packed_weights`."""
    graph = module.graph
    unpacking: list[Operator] = []
    count = 0
    for tensor in list(graph.tensors):
        if tensor.data is None or not _READERS.issuperset(_readers(graph, tensor)):
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
    """Weights as a sum of signs, `scale * sum_k(factors[k] * signs[k])`.

    # Arguments
        signs: int8 `[k, ...]`, +1 and -1.
        factors: c, a whole number for each plane.
        scale: float32, of as many dimensions as the weights: one, or one for each channel.
    """

    signs: np.ndarray
    factors: tuple[int, ...]
    scale: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the bits and the scale."""
        return bit_packed(self.rows).nbytes + (self.scale.nbytes if self.is_scaled else 0)

    @property
    def rows(self) -> np.ndarray:
        """The signs as they are packed: one plane without gaps as it is, else a row a plane."""
        count, *shape = self.signs.shape
        return self.signs[0] if count == 1 and not shape[-1] % _WORD else self.signs.reshape(count, -1)

    @property
    def is_scaled(self) -> bool:
        """Whether the scale is more than 1."""
        return not (self.scale == 1).all()


def planes_of(tensor: Tensor) -> Planes | None:
    """The planes of a constant; `None` if it has none, and if its values all have one sign."""
    if tensor.dtype != "float32" or tensor.size < _WORD:
        return None
    values = tensor.values
    for scale in _scales(values):
        for factors in _FACTORS:
            top = sum(factors)
            step = scale / np.float32(top)
            levels = np.rint(values / step).astype(np.int64)
            is_sum = ((levels + top) % 2 == 0) & (levels.astype(np.float32) * step == values)
            if is_sum.all() and (levels < 0).any() and (levels > 0).any():
                return Planes(_signs(levels, factors), factors, step)
    return None


def _scales(values: np.ndarray) -> Iterator[np.ndarray]:
    """The largest magnitude of all values, and of each channel along each axis.

    Only those that may be scales of quantized values.
    """
    magnitudes = np.abs(values)
    for kept in (None, *range(values.ndim)):
        sample = magnitudes if kept is None else magnitudes.take(0, axis=kept)
        if np.unique(sample.reshape(-1)[:256]).size > _MOST_MAGNITUDES:
            continue
        axes = tuple(axis for axis in range(values.ndim) if axis != kept)
        largest = magnitudes.max(axis=axes, keepdims=True)
        if (largest > 0).all() and np.isfinite(largest).all():
            yield largest


def _signs(levels: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Signs int8 `[k, ...]` whose sum, multiplied by the factors, are the levels."""
    if factors == (1, 1):
        bits = np.stack([levels >= 0, levels > 0])
    else:
        codes = (levels + sum(factors)) // 2
        bits = np.stack([codes // factor % 2 for factor in factors])
    return np.where(bits, 1, -1).astype(np.int8)


def _readers(graph: Graph, tensor: Tensor) -> set[str]:
    """The names of the operators that read a tensor; `output` if it is one of the graph."""
    names = {op.name for op in graph.consumers(tensor)}
    return names | {"output"} if tensor in graph.outputs else names


def _unpacking(graph: Graph, weights: Tensor, planes: Planes) -> list[Operator]:
    """The operators that compute weights from bits; the tensors are of the graph."""
    operators: list[Operator] = []

    def compute(name: str, *inputs: Tensor, shape: tuple[int, ...], **fields: Any) -> Tensor:
        output = graph.add(Tensor(shape, "float32"))
        operators.append(Operator(name, inputs, (output,), **fields))
        return output

    def constant(values: Any, dtype: str) -> Tensor:
        return graph.add(Tensor.constant(np.array(values, dtype)))

    rows, count = planes.rows, len(planes.factors)
    value = compute(
        "LceDequantize", constant(bit_packed(rows), "int32"), shape=rows.shape, custom_options=b""
    )
    if len(set(planes.factors)) > 1:
        factors = constant(np.reshape(planes.factors, (-1, 1)), "float32")
        value = compute("MUL", value, factors, shape=rows.shape, options=options("MulOptions"))
    if count > 1:
        sum_ = options("ReducerOptions")
        value = compute("SUM", value, constant([0], "int32"), shape=rows.shape[1:], options=sum_)
    if value.shape != weights.shape:
        value = compute("RESHAPE", value, constant(weights.shape, "int32"), shape=weights.shape)
    if planes.is_scaled:
        scale = constant(planes.scale, "float32")
        value = compute("MUL", value, scale, shape=weights.shape, options=options("MulOptions"))
    operators[-1].outputs = (weights,)
    return operators
