"""Constant tables of the values that members own, with one row per member.

All vectors of floats (batch norm, activation parameters, biases) lie side by side in one table. One
GATHER reads a member's row, and one SPLIT_V cuts it into the vectors. Any other value has its own
table:

    v_1, v_2, ... = split(vectors[member])
    kernel = kernels[member]

With the precision `compact` the table of vectors is quantized to B bits per value. Members start
from the same pretrained values and stay near them. So each column, the values of one channel, has
its own middle and step, which all members share as half floats:

    v = middle + step * (2 q - (2^B - 1)),   q = 0 ... 2^B - 1
      = middle + step * sum_k 2^k b_k,       b_k = +1 or -1, bit k of q

The graph looks up the B planes of signs b_k and multiplies them. `passes.sign_packing` stores the
signs as bits, `passes.float16_constants` stores middle and step as float16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from larq_ensemble.convert.categories import Category
from larq_ensemble.convert.passes.equal_rows import Rows, distinct_rows
from larq_ensemble.errors import EnsembleError
from larq_ensemble.keras import tf

#: B, the bits of a value with the precision `compact`.
COMPACT_BITS = 4
_LARGEST_HALF = float(np.finfo(np.float16).max)


class Tables:
    """Collects the members' values, then makes the tensors that read them.

    # Arguments
        precision: `"float32"` or `"compact"`.
    """

    def __init__(self, precision: str = "float32") -> None:
        self._precision = precision
        self._vectors: dict[str, np.ndarray] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._columns: Counter[Category] = Counter()

    def add(self, name: str, values: np.ndarray, category: Category) -> None:
        """Adds one value of all members.

        # Arguments
            name: unique.
            values: `[members, ...]`.
            category: what the value is for.
        """
        if values.ndim == 2 and values.dtype == np.float32:
            self._vectors[name] = values
            self._columns[category] += values.shape[1]
        else:
            self._arrays[name] = values

    @property
    def columns(self) -> dict[str, int]:
        """Number of columns of the table of vectors by category."""
        return {category.value: count for category, count in self._columns.items()}

    def has_only_arrays(self, layer: str) -> bool:
        """Whether no vector holds its values, as of a PReLU with a slope for each pixel."""
        return any(_of_layer(self._arrays, layer)) and not any(_of_layer(self._vectors, layer))

    def distinct_rows(self, layer: str, *, in_vectors: bool) -> Rows | None:
        """The number of each member's row among the different ones; `None` if there is no table.

        # Arguments
            layer: its name.
            in_vectors: in the table of all vectors; else in the layer's table of any other value,
                of several in the one with the fewest different rows.
        """
        if not in_vectors:
            arrays = [self._arrays[name] for name in _of_layer(self._arrays, layer)]
            return min(map(distinct_rows, arrays), key=max, default=None)
        if not self._vectors:
            return None
        table = np.concatenate(list(self._vectors.values()), axis=1)
        return distinct_rows(compacted(table)[2] if self._precision == "compact" else table)

    def rows(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One member's values by name, as tensors of a graph.

        # Arguments
            index: the member's number, int32 of rank 0.
        """
        rows = {name: tf.gather(table, index) for name, table in self._arrays.items()}
        if self._vectors:
            table = np.concatenate(list(self._vectors.values()), axis=1)
            compact = self._precision == "compact"
            row = _unpacked(table, index) if compact else tf.gather(table, index)
            sizes = [vectors.shape[1] for vectors in self._vectors.values()]
            rows.update(zip(self._vectors, tf.split(row, sizes), strict=True))
        return rows


def _of_layer(values: Iterable[str], layer: str) -> Iterator[str]:
    """Of the names of values those of a layer."""
    return (name for name in values if name.startswith(f"{layer}/"))


def compacted(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle, step and signs of a table in the precision `compact`.

    # Arguments
        table: float `[members, columns]`.

    # Returns
        Middles and steps, float16 `[columns]` each, and the signs b_k, int8
        `[members, COMPACT_BITS, columns]`.

    # Raises
        EnsembleError: if a value is too large for a half float.
    """
    if np.abs(table).max() > _LARGEST_HALF:
        raise EnsembleError(
            f"A member's value is {np.abs(table).max():g}, more than half precision can hold: "
            'convert with `precision="float32"`.'
        )
    top = 2**COMPACT_BITS - 1
    low, high = table.min(axis=0), table.max(axis=0)
    middle = ((low + high) / 2).astype(np.float16)
    step = ((high - low) / (2 * top)).astype(np.float16)
    # Where members agree the step is 0 and any q will do.
    distance = (table - middle) / np.where(step > 0, step, 1).astype(np.float32)
    levels = np.clip(np.rint((distance + top) / 2), 0, top).astype(np.int64)
    bits = levels[:, np.newaxis] >> np.arange(COMPACT_BITS)[:, np.newaxis] & 1
    return middle, step, (2 * bits - 1).astype(np.int8)


def _unpacked(table: np.ndarray, index: tf.Tensor) -> tf.Tensor:
    middle, step, signs = compacted(table)
    powers = 2.0 ** np.arange(COMPACT_BITS, dtype=np.float32)[:, np.newaxis]
    planes = tf.cast(tf.gather(signs, index), tf.float32)
    total = tf.reduce_sum(planes * powers, axis=0)
    return middle.astype(np.float32) + step.astype(np.float32) * total
