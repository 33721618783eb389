"""Batch normalization before a sign, also behind a PReLU, as one comparison per channel.

Only the sign of `scale * prelu(x) + offset` is used. With `scale > 0` and a slope `a >= 0` this
function is monotonic, so it has the sign of `x - t`, where

    t' = -offset / scale,    t = t'      for t' >= 0
                                 t' / a  for t' < 0

A negative scale turns the comparison around: `t - x`. With a = 0 all negative x give the same sign,
so for t' <= 0 there may be no finite threshold. Then t is far beyond any activation, as it is
where t' / a overflows.

In float32 `x - t >= 0` compares x with the rounded t exactly, since the difference of two different
floats never rounds to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from larq_ensemble.convert.frontend.lowerings import (
    Lowering,
    Rows,
    Values,
    folded_norm,
    normalizes_channels,
)
from larq_ensemble.keras import keras, lq, tf
from larq_ensemble.layers import PReLU
from larq_ensemble.models.functional import has_input_quantizer

_SIGNS = (lq.quantizers.SteSign, lq.quantizers.ApproxSign, lq.quantizers.SwishSign)
#: Far beyond any activation, and a half float can hold it.
LARGEST_THRESHOLD = 60_000.0


def comparison(
    scale: np.ndarray, offset: np.ndarray, slope: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The comparison that has the sign of `scale * prelu(x, slope) + offset`.

    # Arguments
        scale: not zero.
        offset: of the same shape.
        slope: of the PReLU, 0 or more; 1: there is none.

    # Returns
        `direction`, +1 or -1, and `summand`, so that `direction * x + summand` has the sign of the
        original (0 counts as positive) for every `|x| < LARGEST_THRESHOLD`.
    """
    level = -offset / scale
    slope = np.broadcast_to(slope, level.shape)
    # Where the PReLU is flat, level 0 is reached by every negative x, or left by none.
    is_reached = np.where(slope > 0, level >= 0, np.where(scale > 0, level > 0, level >= 0))
    steep = np.where(slope > 0, slope, 1)
    with np.errstate(over="ignore"):
        below = np.where(slope > 0, level / steep, -LARGEST_THRESHOLD)
    threshold = np.clip(np.where(is_reached, level, below), -LARGEST_THRESHOLD, LARGEST_THRESHOLD)
    direction = np.where(scale > 0, 1.0, -1.0)
    return direction, -direction * threshold


class ThresholdLowering(Lowering):
    """`direction * x + summand` in place of a batch norm, or a PReLU and a batch norm.

    # Arguments
        behind_prelu: whether the input is that of the PReLU before the batch norm.
        is_directed: whether some scale is negative; else no `direction` is needed.
    """

    def __init__(self, *, behind_prelu: bool, is_directed: bool) -> None:
        self.behind_prelu = behind_prelu
        self._is_directed = is_directed

    @classmethod
    def of(
        cls, copies: Sequence[keras.layers.Layer], *, through_prelu: bool
    ) -> ThresholdLowering | None:
        """The lowering of the members' copies of a batch norm; `None` if they need another one.

        # Arguments
            copies: layers of any type, one per member.
            through_prelu: whether a PReLU may be taken along.
        """
        if not all(map(_is_norm_before_sign, copies)):
            return None
        folded = [folded_norm(copy) for copy in copies]
        with np.errstate(over="ignore"):
            if not all(
                (np.abs(norm["offset"]) < LARGEST_THRESHOLD * np.abs(norm["scale"])).all()
                for norm in folded
            ):
                return None
        is_directed = any((norm["scale"] < 0).any() for norm in folded)
        behind_prelu = through_prelu and _are_monotonic(
            [prelu_before(copy) for copy in copies], copies
        )
        # With a direction and without a PReLU it would be a product and a sum as before.
        if is_directed and not behind_prelu:
            return None
        return cls(behind_prelu=behind_prelu, is_directed=is_directed)

    def values(self, layer: keras.layers.BatchNormalization) -> Values:
        norm = folded_norm(layer)
        prelu = prelu_before(layer) if self.behind_prelu else None
        slope = 1.0 if prelu is None else prelu.alpha.numpy().reshape(-1)
        direction, summand = comparison(norm["scale"], norm["offset"], slope)
        values = {"summand": summand.astype(np.float32)}
        return (
            {"direction": direction.astype(np.float32), **values} if self._is_directed else values
        )

    def apply(self, layer: keras.layers.Layer, x: tf.Tensor, rows: Rows) -> tf.Tensor:
        return (x * rows["direction"] if self._is_directed else x) + rows["summand"]


def prelu_before(layer: keras.layers.Layer) -> keras.layers.PReLU | None:
    """The PReLU that alone feeds a layer which is called once; `None` if there is none."""
    if len(layer.inbound_nodes) != 1:
        return None
    source = layer.inbound_nodes[0].inbound_layers
    return source if type(source) in (keras.layers.PReLU, PReLU) else None


def _is_norm_before_sign(layer: keras.layers.Layer) -> bool:
    readers = [node.layer for node in layer.outbound_nodes]
    return (
        type(layer) is keras.layers.BatchNormalization
        and normalizes_channels(layer)
        and bool(readers)
        and all(map(_reads_signs, readers))
    )


def _reads_signs(layer: keras.layers.Layer) -> bool:
    """Whether a layer depends on the signs of its input alone: a sign, or a layer of Larq's."""
    quantizer = layer.input_quantizer if has_input_quantizer(layer) else layer
    return type(quantizer) in _SIGNS


def _are_monotonic(
    prelus: Sequence[keras.layers.PReLU | None], readers: Sequence[keras.layers.Layer]
) -> bool:
    """Whether all are PReLUs with slopes >= 0, one or one per channel, that feed nothing else."""
    for prelu in prelus:
        if prelu is None or any(node.layer not in readers for node in prelu.outbound_nodes):
            return False
        slope = prelu.alpha.numpy()
        if slope.size != slope.shape[-1] or not (slope >= 0).all():
            return False
    return True
