"""Filters and other weights that LCE stores as bits.

| filters | a constant of bits becomes | bytes a weight |
|---|---|---|
| `"int8"` | int8, +1 and -1, and a scale | 1 |
| `"1bit"` | bytes -> CAST -> GATHER of 8 numbers from a table of 256 rows -> RESHAPE | 1/8 |

In a table of which members look their rows up, the weights are the same, and GATHER comes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from larq_ensemble.ir.graph import Tensor
from larq_ensemble.ir.schema import schema
from larq_ensemble.legalization.conversion import Conversion


def signs_of(words: np.ndarray, channels: int) -> np.ndarray:
    """+1 and -1, int8 `[..., channels]`, of packed words, int32 `[..., ceil(channels / 32)]`."""
    data = np.ascontiguousarray(words).view(np.uint8)
    bits = np.unpackbits(data, axis=-1, count=channels, bitorder="little")
    return 1 - 2 * bits.view(np.int8)


#: +1 and -1 of each byte, int8 `[256, 8]`.
OF_BYTES = signs_of(np.arange(256, dtype=np.uint8)[:, np.newaxis], 8)


def quantization(scales: np.ndarray) -> Any:
    """The schema's table of scales: one, or one for each index of the first axis.

    If several are equal, the first becomes the next larger float: tflite-runtime 2.14 takes equal
    scales for one that isn't there.
    """
    table = schema().QuantizationParametersT()
    table.scale = np.array(scales, np.float32)
    if len(scales) > 1 and (table.scale == table.scale[0]).all():
        table.scale[0] = np.nextafter(table.scale[0], np.float32(np.inf))
    table.zeroPoint = np.zeros(len(scales), np.int64)
    return table


def unpacked(conversion: Conversion, words: Tensor, channels: int) -> Tensor:
    """Weights +1 and -1, float32 `[..., channels]`, of words of the old graph.

    Words that are looked up stay bits: those of members' values are many rows, of which a run
    reads one.
    """
    if conversion.filters == "int8" and words.data is not None:
        signs = signs_of(words.values, channels)
        constant = conversion.constant(signs, "int8", quantization(np.ones(1)))
        return conversion.op("DEQUANTIZE", constant, dtype="float32")
    data = _looked_up(conversion, words)
    if data is None:
        data = as_bytes(conversion, words)
    return conversion.resized(of_bytes(conversion, data, OF_BYTES), channels)


def from_bits(conversion: Conversion, signs: np.ndarray) -> Tensor:
    """Weights +1 and -1, float32, computed in the graph from one bit a weight.

    # Arguments
        signs: int8, of any shape; bits are packed without gaps.
    """
    bits = np.packbits(signs.reshape(-1) < 0, bitorder="little")
    numbers = of_bytes(conversion, conversion.constant(bits, "uint8"), OF_BYTES)
    return conversion.reshape(conversion.resized(numbers, signs.size), signs.shape)


def _looked_up(conversion: Conversion, words: Tensor) -> Tensor | None:
    """The bytes of constant words, or of the rows of a constant that words are looked up in.

    # Returns
        uint8 `[..., words * 4]`, or `None` if the words come from elsewhere.
    """
    if words.data is not None:
        return _bytes_constant(conversion, words.values)
    producer = conversion.producer(words)
    if producer is None or producer.name not in ("GATHER", "RESHAPE"):
        return None
    source = producer.operands[0]
    if source.shape[-1:] != words.shape[-1:]:
        return None
    rows = _looked_up(conversion, source)
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
        axis=producer.options.axis,
        batchDims=producer.options.batchDims,
    )


def as_bytes(conversion: Conversion, words: Tensor) -> Tensor:
    """Words of the old graph as bytes, uint8 `[..., words * 4]`."""
    if words.data is not None:
        return _bytes_constant(conversion, words.values)
    data = conversion.op("BITCAST", words, shape=(*words.shape, 4), dtype="uint8")
    return conversion.reshape(data, (*words.shape[:-1], words.shape[-1] * 4))


def of_bytes(conversion: Conversion, data: Tensor, table: np.ndarray) -> Tensor:
    """Eight numbers for each byte, float32 `[..., bytes * 8]`.

    # Arguments
        table: the numbers, `[256, 8]`.
    """
    index = conversion.cast(data, "int32")
    shape = (*index.shape, 8)
    numbers = conversion.op(
        "GATHER", conversion.constant(table), index, shape=shape, dtype="float32"
    )
    return conversion.reshape(numbers, (*data.shape[:-1], data.shape[-1] * 8))


def _bytes_constant(conversion: Conversion, words: np.ndarray) -> Tensor:
    return conversion.constant(np.ascontiguousarray(words).view(np.uint8), "uint8")
