"""Filters and other weights that LCE stores as bits.

| filters | a constant of bits becomes | bytes a weight |
|---|---|---|
| `"int8"` | int8, +1 and -1, and a scale | 1 |
| `"1bit"` | bytes -> CAST -> GATHER of 8 numbers from a table of 256 rows -> RESHAPE | 1/8 |

The filters of a CONV_2D are int8 in both, so both sum integers. XNNPACK takes constant ones only.

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


def filters(conversion: Conversion, signs: np.ndarray, scales: np.ndarray) -> Tensor:
    """Filters of a CONV_2D, int8.

    # Arguments
        signs: +1 and -1, and 0 for a filter that counts for nothing, int8 `[out, h, w, in]`.
        scales: `[out]`.
    """
    quantized = quantization(scales)
    if conversion.filters == "int8" or not signs.all():
        return conversion.constant(signs, "int8", quantized)
    bits = np.packbits(signs.reshape(-1) < 0, bitorder="little")
    data = conversion.constant(bits, "uint8")
    numbers = conversion.resized(of_bytes(conversion, data, OF_BYTES, "int8"), signs.size)
    return conversion.reshape(numbers, signs.shape, quantization=quantized)


def scaled(
    conversion: Conversion, integers: np.ndarray, factor: np.ndarray, offset: np.ndarray
) -> Tensor:
    """`integers * factor + offset`, float32, with `"1bit"` computed from small integers."""
    small = next((t for t in ("int8", "int16") if (integers.astype(t) == integers).all()), None)
    if conversion.filters == "int8" or small is None:
        return conversion.constant(integers * factor + offset)
    numbers = conversion.cast(conversion.constant(integers, small), "float32")
    product = conversion.op("MUL", numbers, conversion.constant(factor))
    if not offset.any():
        return product
    return conversion.op("ADD", product, conversion.constant(offset))


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


def of_bytes(
    conversion: Conversion, data: Tensor, table: np.ndarray, dtype: str = "float32"
) -> Tensor:
    """Eight numbers for each byte, `[..., bytes * 8]`.

    # Arguments
        table: the numbers, `[256, 8]`.
    """
    index = conversion.cast(data, "int32")
    shape, version = (*index.shape, 8), 2 if dtype == "int8" else 1
    rows = conversion.constant(table, dtype)
    numbers = conversion.op("GATHER", rows, index, shape=shape, dtype=dtype, version=version)
    return conversion.reshape(numbers, (*data.shape[:-1], data.shape[-1] * 8))


def _bytes_constant(conversion: Conversion, words: np.ndarray) -> Tensor:
    return conversion.constant(np.ascontiguousarray(words).view(np.uint8), "uint8")
