"""Filters and other weights that LCE stores as bits.

| filters | a constant of bits becomes | bytes a weight |
|---|---|---|
| `"int8"` | int8, +1 and -1, and a scale | 1 |
| `"1bit"` | bytes -> CAST -> GATHER of 8 numbers from a table of 256 rows -> RESHAPE | 1/8 |

In a table of which members look their rows up, the weights are the same, and GATHER comes first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from larq_ensemble.ir.graph import Tensor
from larq_ensemble.ir.schema import schema
from larq_ensemble.legalization.conversion import Conversion

#: How filters of binary convolutions can be stored.
FILTERS = ("int8", "1bit")

_WORD = 32


def signs_of(words: np.ndarray, channels: int) -> np.ndarray:
    """+1 and -1, int8 `[..., channels]`, of packed words, int32 `[..., ceil(channels / 32)]`."""
    data = np.ascontiguousarray(words).view(np.uint8)
    bits = np.unpackbits(data, axis=-1, count=channels, bitorder="little")
    return 1 - 2 * bits.view(np.int8)


def quantization(scales: np.ndarray) -> object:
    """The schema's table of scales: one, or one for each index of the first axis."""
    table = schema().QuantizationParametersT()
    table.scale = np.asarray(scales, np.float32)
    table.zeroPoint = np.zeros(len(table.scale), np.int64)
    return table


def unpacked(conversion: Conversion, words: Tensor, channels: int) -> Tensor:
    """Weights +1 and -1, float32 `[..., channels]`, of words of the old graph."""
    if conversion.filters == "int8":

        def signs(values: np.ndarray) -> Tensor:
            scale = quantization(np.ones(1))
            return conversion.constant(signs_of(values, channels), "int8", scale)

        rows = _looked_up(conversion, words, signs)
        if rows is not None:
            return conversion.op("DEQUANTIZE", rows, dtype="float32")

    def bytes_(values: np.ndarray) -> Tensor:
        return conversion.constant(np.ascontiguousarray(values).view(np.uint8), "uint8")

    shape = (*words.shape[:-1], words.shape[-1] * _WORD)
    data = _looked_up(conversion, words, bytes_)
    if data is None:
        data = conversion.op("BITCAST", words, shape=(*words.shape, 4), dtype="uint8")
    return _first(conversion, conversion.reshape(_numbers(conversion, data), shape), channels)


def from_bits(conversion: Conversion, signs: np.ndarray) -> Tensor:
    """Weights +1 and -1, float32, computed in the graph from one bit a weight.

    # Arguments
        signs: int8, of any shape; bits are packed without gaps.
    """
    bits = np.packbits(signs.reshape(-1) < 0, bitorder="little")
    numbers = _numbers(conversion, conversion.constant(bits, "uint8"))
    flat = conversion.reshape(numbers, (numbers.size,))
    return conversion.reshape(_first(conversion, flat, signs.size), signs.shape)


def _looked_up(
    conversion: Conversion, words: Tensor, constant: Callable[[np.ndarray], Tensor]
) -> Tensor | None:
    """What `constant` makes of a constant of words, or its rows that words are looked up in.

    # Returns
        `None` if the words come from elsewhere.
    """
    if words.data is not None:
        return constant(words.values)
    producer = conversion.producer(words)
    if producer is None or producer.name not in ("GATHER", "RESHAPE"):
        return None
    source = producer.operands[0]
    if producer.name == "RESHAPE" and source.shape[-1:] != words.shape[-1:]:
        return None
    if producer.name == "GATHER" and source.shape[-1:] != words.shape[-1:]:
        return None
    rows = _looked_up(conversion, source, constant)
    if rows is None:
        return None
    shape = (*words.shape[:-1], rows.shape[-1])
    if producer.name == "RESHAPE":
        return conversion.reshape(rows, shape)
    return conversion.op(
        "GATHER",
        rows,
        producer.operands[1],
        shape=shape,
        quantization=rows.quantization,
        version=2 if rows.dtype == "int8" else 1,
        axis=producer.options.axis,
        batchDims=producer.options.batchDims,
    )


def _numbers(conversion: Conversion, data: Tensor) -> Tensor:
    """Eight numbers +1 and -1 for each byte, float32 `[..., 8]`."""
    index = conversion.cast(data, "int32")
    table = conversion.constant(signs_of(np.arange(256, dtype=np.uint8)[:, np.newaxis], 8))
    return conversion.op("GATHER", table, index, shape=(*index.shape, 8), dtype="float32")


def _first(conversion: Conversion, numbers: Tensor, count: int) -> Tensor:
    """The first numbers along the last axis."""
    shape = (*numbers.shape[:-1], count)
    if shape == numbers.shape:
        return numbers
    begin = conversion.constant([0] * len(shape), "int32")
    return conversion.op("SLICE", numbers, begin, conversion.constant(shape, "int32"), shape=shape)
